"""The links of a Dask cluster: with TLS and without, for members and for intruders; and clusters that grow."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from certificates import Authority
from dask_cluster import DaskCluster
from waiting import until

import farcall as fc
from farcall._cluster import master
from farcall._transport import handshake
from farcall._transport.addresses import Dialler
from farcall._wire import messages
from farcall._wire.frames import encode_small

HELLO = {"versions": {}, "me": 1, "you": 2, "host": "evil", "process": 1, "probe": [-1, "00"]}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A cluster of two workers that speaks TLS."""
    folder = tmp_path_factory.mktemp("secured")
    cluster = DaskCluster(folder, 2, Authority().write(folder))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module", params=["tls", "tcp"])
def any_dask(request):
    return request.getfixturevalue("secured" if request.param == "tls" else "dask")


def outer_address(pid):
    """Return where a worker listens for other hosts."""
    return master().node.peers.get(pid).address.split()[-1]


def test_links_are_as_dasks_own(any_dask):
    """Workers listen for other hosts as Dask's do: over TLS if those do, and calls work over such a link."""
    scheme = any_dask.address.partition(":")[0]
    with fc.addprocs(any_dask.client) as pids:
        assert {outer_address(pid).partition(":")[0] for pid in pids} == {scheme}
        assert [fc.remotecall_fetch(pid, fc.myid) for pid in pids] == pids
        assert fc.remotecall_fetch(pids[0], lambda: fc.remotecall_fetch(pids[1], fc.myid)) == pids[1]


def test_the_address_of_a_secured_cluster_takes_its_certificates(secured):
    """An address alone is not enough, and the error says what is: Dask's Security, or Dask's settings."""
    with pytest.raises(fc.LaunchError, match=r"secured by TLS: give Dask\(address, security="):
        fc.addprocs(secured.address)
    with fc.addprocs(fc.engines.Dask(secured.address, security=secured.security)) as pids:
        assert [fc.remotecall_fetch(pid, fc.myid) for pid in pids] == pids
    ca, own, key = certificate_of(secured)
    tls = "distributed.comm.tls"
    settings = {f"{tls}.ca-file": ca, f"{tls}.client.cert": own, f"{tls}.client.key": key}
    with dask.config.set(settings), fc.addprocs(secured.address) as pids:
        assert [fc.remotecall_fetch(pid, fc.myid) for pid in pids] == pids


class Bomb:
    """What leaves a trace where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def bomb_frames(path):
    """Return messages of which either would do harm, if anybody read them."""
    body = pickle.dumps(Bomb(path))
    return encode_small(messages.DEFINE, 0, 1, 0, body) + encode_small(messages.CALL, messages.WANT_VALUE, 1, 1, body)


def intrude(address, dialler, token, path):
    """Shake hands as far as it goes, then send what would do harm; return whether the worker hung up."""
    transport = dialler(address, 5)
    steps = handshake.dialler_steps(token, HELLO)
    try:
        handshake.perform(transport, steps, 5)
    except fc.AuthenticationError:
        return True
    transport.send([bomb_frames(path)])
    return False


def test_who_does_not_know_the_token_gets_nothing_unpickled(any_dask, tmp_path):
    """Neither with a token of his own nor without any, nor with a handshake that was recorded, nor without TLS."""
    trace = tmp_path / "exploded"
    with fc.addprocs(any_dask.client) as pids:
        address = outer_address(pids[0])
        secured = address.startswith("tls:")
        member = Dialler(certificate_of(any_dask)) if secured else Dialler()
        assert intrude(address, member, b"x" * 32, trace)
        assert say(address, member, bomb_frames(trace)) == b""
        assert say(address, member, recorded(address, member) + bomb_frames(trace)).startswith(handshake.MAGIC)
        if secured:
            assert say(address.replace("tls:", "tcp:"), Dialler(), bomb_frames(trace)) == b""
        assert [fc.remotecall_fetch(pid, fc.myid) for pid in pids] == pids
    assert not trace.exists()


def test_who_has_a_certificate_of_somebody_else_gets_nothing(secured, tmp_path):
    """Even with the right token: TLS ends before a word of ours."""
    trace = tmp_path / "exploded"
    stranger = Authority()
    with fc.addprocs(secured.client) as pids:
        address = outer_address(pids[0])
        with pytest.raises(fc.AuthenticationError, match="certificate"):
            intrude(address, Dialler((stranger.certificate, *stranger.issue())), master().token, trace)
        trusting = (certificate_of(secured)[0], *stranger.issue())  # trusts the cluster, and is not trusted
        assert intrude(address, Dialler(trusting), master().token, trace)
        assert fc.remotecall_fetch(pids[0], fc.myid) == pids[0]
    assert not trace.exists()


def certificate_of(cluster):
    held = cluster.security.get_tls_config_for_role("client")
    return held["ca_file"], held["cert"], held["key"]


def say(address, dialler, data):
    """Send some bytes to a worker without shaking hands; return what it answers until it hangs up."""
    transport = dialler(address, 5)
    transport.send([data])
    answer, buffer = bytearray(), memoryview(bytearray(1000))

    def hangs_up():
        try:
            size = transport.receive_into(buffer)
        except BlockingIOError:
            return False
        except OSError:
            return True
        answer.extend(buffer[:size])
        return size == 0

    assert until(hangs_up)
    transport.close()
    return bytes(answer)


def recorded(address, dialler):
    """Return what a member sends in a handshake that succeeds."""
    transport = dialler(address, 5)
    sent = []
    steps = handshake.dialler_steps(master().token, HELLO)
    request = next(steps)
    while len(sent) < 2:
        if isinstance(request, bytes):
            sent.append(request)
            handshake._send_all(transport, request, time.monotonic() + 5)
            request = steps.send(b"")
        else:
            request = steps.send(handshake._receive_exactly(transport, request, time.monotonic() + 5))
    transport.close()
    return b"".join(sent)


GROWING = """
import os, time
import distributed
import farcall as fc

def slowly(n):
    time.sleep(0.02)
    return os.getpid(), n

if __name__ == "__main__":
    options = dict(threads_per_worker=1, dashboard_address=":0", host="127.0.0.1")
    with distributed.LocalCluster(n_workers=1, **options) as cluster, fc.addprocs(cluster):
        cluster.adapt(minimum=1, maximum=1, interval="100ms", wait_count=1)
        seen, numbers = set(), []
        for process, n in fc.imap(slowly, range(300), batch_size=1):
            seen.add(process)
            numbers.append(n)
            if n == 20:
                print(len(seen), fc.nworkers())
                cluster.adapt(minimum=2, maximum=2, interval="100ms", wait_count=1)
            if len(seen) == 2 and n % 50 == 49:
                cluster.adapt(minimum=1, maximum=1, interval="100ms", wait_count=1)
        print(len(seen), numbers == list(range(300)))
        deadline = time.monotonic() + 20
        while fc.nworkers() > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        print(fc.nworkers())
"""


def test_a_cluster_that_grows_and_shrinks_during_a_map(tmp_path):
    """Dask's adaptive scaling brings workers, which take part at once; those that it takes away are not missed."""
    (tmp_path / "growing.py").write_text(GROWING)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "growing.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout.splitlines() == ["1 1", "2 True", "1"], done.stderr
