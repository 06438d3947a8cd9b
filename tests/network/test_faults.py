"""Hosts that cannot be reached, that vanish, and lines that lose and delay: on real hosts of a network of their own."""

import contextlib
import os
import threading
import time

import pytest
from hosts import Host, Hosts
from waiting import until

import farcall as fc

HEARTBEAT = 2.0  # seconds; here shorter than by default, so that it can be waited for
NOTICED = 2 * HEARTBEAT + 1  # and a second for the news


@pytest.fixture(autouse=True)
def short_heartbeat(monkeypatch):
    monkeypatch.setenv("FARCALL_HEARTBEAT", str(HEARTBEAT))


def add(hosts, chosen, **options):
    """Return the workers on some hosts, by host in that order."""
    env = {"FARCALL_HEARTBEAT": str(HEARTBEAT)}
    pids = fc.addprocs(
        [(each.name, 1) for each in chosen], env=env, ssh_options={"-F": str(hosts.ssh_config)}, **options
    )
    names = {fc.remotecall_fetch(pid, os.uname).nodename: pid for pid in pids}
    return [names[each.name] for each in chosen]


def wait_for_ever():
    while True:  # in steps between which it can be interrupted
        time.sleep(0.01)


def slowly(n):
    time.sleep(0.02)
    return fc.myid(), n * n


# NAT and firewalls


def test_all_goes_through_port_22(hosts: Hosts):
    """tunnel=True: the hosts are behind routers and firewalls, only SSH comes in, and nothing comes to the master.

    Calls work, workers of different hosts talk through the master, and large data arrives.
    """
    data = os.urandom(5_000_000)
    with contextlib.ExitStack() as walls:
        hidden = walls.enter_context(hosts.behind_nat())
        for each in (hidden, hosts[0]):
            walls.enter_context(each.firewall(reach_master=False))
        first, second = add(hosts, [hidden, hosts[0]], tunnel=True)
        assert fc.remotecall_fetch(first, lambda: fc.remotecall_fetch(second, fc.myid)) == second
        assert fc.remotecall_fetch(second, lambda: fc.remotecall_fetch(first, len, data)) == len(data)
        assert fc.remotecall_fetch(first, bytes.upper, data) == data.upper()
        channel = fc.RemoteChannel(3, pid=first)
        fc.remote_do(second, lambda: [channel.put(n) for n in range(50)] and channel.close())
        assert list(channel) == list(range(50))
        fc.rmprocs(first, second)


def test_without_a_tunnel_the_error_says_that_there_is_one(hosts: Hosts):
    """Workers that listen where the master cannot come are a LaunchError, not a wait; nothing is left there."""
    with hosts[0].firewall():
        with pytest.raises(fc.LaunchError, match=r"cannot be reached from here .*tunnel=True"):
            add(hosts, [hosts[0]])
        hosts[0].wait_until_idle()


def test_workers_that_a_firewall_separates_talk_through_the_master(hosts: Hosts):
    """Direct links are tried first; a dropped connection does not end anything."""
    first, second = add(hosts, hosts[:2])
    rule = f"ip saddr {hosts[0].address} tcp dport != 22 ct state new drop"
    with extra_rule(hosts[1], rule):
        assert fc.remotecall_fetch(first, lambda: fc.remotecall_fetch(second, fc.myid)) == second
    assert fc.workers() == sorted([first, second])


@contextlib.contextmanager
def extra_rule(host: Host, rule: str):
    chain = f"chain in {{ type filter hook input priority 1; {rule}; }}"
    host.namespaces.do(f"nft -f - <<'END'\ntable inet extra {{\n{chain}\n}}\nEND")
    try:
        yield
    finally:
        host.namespaces.do("nft delete table inet extra")


# Partitions and deaths


@pytest.mark.parametrize("tunnel", [False, True], ids=["tls", "tunnel"])
def test_a_partition_in_a_map(hosts: Hosts, tunnel: bool):
    """No packet passes any more, and nobody is told: it is noticed, the items run elsewhere, and none is lost."""
    safe, lost = add(hosts, hosts[:2], tunnel=tunnel)
    seen = set()
    with contextlib.ExitStack() as cut:
        squares = []
        for pid, square in fc.imap(slowly, range(120), batch_size=1):
            seen.add(pid)
            squares.append(square)
            if len(squares) == 40:
                assert seen == {safe, lost}
                cut.enter_context(hosts[1].partition())
                began = time.monotonic()
        assert squares == [n * n for n in range(120)]
        assert until(lambda: fc.workers() == [safe], NOTICED)
        assert time.monotonic() - began < NOTICED
        with pytest.raises(fc.ProcessExited, match=r"not answered for 2 s|connection .*ended|not responding"):
            fc.remotecall_fetch(lost, abs, -1)
    hosts[1].wait_until_idle()  # the worker has noticed, too, and ended
    [again] = add(hosts, hosts[1:2], tunnel=tunnel)
    assert fc.remotecall_fetch(again, abs, -1) == 1


def test_a_host_that_vanishes_is_noticed(hosts: Hosts):
    """Without a word from it: idle or busy, within twice the heartbeat."""
    with hosts.another() as doomed:
        [pid] = add(hosts, [doomed])
        waiting = fc.spawnat(pid, wait_for_ever)
        began = time.monotonic()
        doomed.vanish()
        with pytest.raises(fc.ProcessExited, match=f"worker {pid} is gone"):
            waiting.result(3 * NOTICED)
        assert time.monotonic() - began < NOTICED


def test_what_is_being_sent_does_not_hide_that_the_host_is_gone(hosts: Hosts):
    """A call with a large argument ends as well: TCP's probes of idle connections do not help there."""
    with hosts.another() as doomed:
        [pid] = add(hosts, [doomed])
        fc.remotecall_fetch(pid, abs, -1)
        doomed.vanish()
        began = time.monotonic()
        with pytest.raises(fc.ProcessExited):
            fc.remotecall_fetch(pid, len, os.urandom(20_000_000))
        assert time.monotonic() - began < NOTICED


def test_a_host_that_vanishes_while_it_is_added(hosts: Hosts):
    """The rest go on if at_least allows it, with a warning that names the host."""
    with hosts.another() as doomed, doomed.partition():
        with pytest.warns(RuntimeWarning, match=rf"{doomed.name}: .*timed out"):
            [pid] = fc.addprocs(
                [hosts[0].name, doomed.name], at_least=1, timeout=3, ssh_options={"-F": str(hosts.ssh_config)}
            )
        assert fc.workers() == [pid]
        assert fc.remotecall_fetch(pid, os.uname).nodename == hosts[0].name


def test_a_worker_that_computes_is_not_taken_for_dead(hosts: Hosts):
    """One that holds the interpreter's lock and does not read, while more is sent than fits, lives on."""
    [pid] = add(hosts, hosts[:1])
    sending = []

    def send():
        sending.append(fc.remotecall_fetch(pid, len, bytes(30_000_000)))

    busy = fc.spawnat(pid, hold_the_lock, 3 * HEARTBEAT)
    thread = threading.Thread(target=send)
    thread.start()
    assert busy.result(20)
    thread.join()
    assert sending == [30_000_000]


def hold_the_lock(seconds):
    """Compute in C without letting any other thread of Python run."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return True


def test_loss_and_delay(hosts: Hosts):
    """50 ms each way and lost packets: slow, and right."""
    first, second = add(hosts, hosts[:2])
    data = os.urandom(300_000)
    with hosts[0].delay(50, loss=2):
        assert fc.remotecall_fetch(first, bytes.upper, data) == data.upper()
        assert fc.remotecall_fetch(first, lambda: fc.remotecall_fetch(second, fc.myid)) == second
        assert fc.pmap(slowly, range(40)) is not None
        assert fc.workers() == sorted([first, second])


def test_a_connection_of_ssh_that_is_cut_ends_its_workers(hosts: Hosts):
    """The error names the host and has what ssh said; what ran there has ended."""
    [pid] = add(hosts, hosts[2:3])
    hosts[2].restart_sshd()
    with pytest.raises(fc.ProcessExited, match=f"the SSH connection to {hosts[2].name} ended: Conn"):
        fc.remotecall_fetch(pid, wait_for_ever)
    hosts[2].wait_until_idle()
