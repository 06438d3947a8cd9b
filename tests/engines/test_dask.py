"""Workers of a Dask cluster: real schedulers and workers, each a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import distributed
import pytest
from dask_cluster import PROGRAM, DaskCluster
from waiting import until

import farcall as fc
from farcall._engines.dask import _REASONS


@pytest.fixture
def own_dask(tmp_path):
    """A cluster that the test may break."""
    cluster = DaskCluster(tmp_path, 2)
    yield cluster
    cluster.close()


def wait_for_ever():
    while True:  # in steps between which it can be interrupted
        time.sleep(0.01)


# Joining and leaving


def test_each_dask_worker_becomes_a_process(dask):
    """addprocs takes the address of a scheduler, or a client, and calls run inside Dask's workers."""
    expected = set(dask.client.run(os.getpid).values())
    for cluster in (dask.address, dask.client):
        with fc.addprocs(cluster) as pids:
            assert len(pids) == 2
            assert fc.workers() == pids
            assert {fc.remotecall_fetch(pid, os.getpid) for pid in pids} == expected
            assert fc.pmap(lambda n: n * n, range(100)) == [n * n for n in range(100)]
        assert fc.workers() == [1]
        assert until(lambda: dask.plugins() == [])


def test_workers_that_come_later_join(own_dask):
    """Also while a map runs, which uses them."""
    with fc.addprocs(own_dask.address):
        fc.everywhere("joined = True")
        own_dask.add(1)
        assert until(lambda: fc.nworkers() == 3, 40)
        newest = max(fc.workers())
        assert fc.remotecall_fetch(newest, eval, "joined")
    assert fc.workers() == [1]
    assert until(lambda: own_dask.plugins() == [])
    own_dask.add(1)
    own_dask.client.wait_for_workers(4, timeout=20)
    assert fc.workers() == [1]  # the block has ended: no more come


def test_a_killed_worker_is_gone_and_its_successor_joins(own_dask, capfd):
    """A call under way there ends with ProcessExited; Dask's nanny starts another worker, with another pid."""
    with fc.addprocs(own_dask.address) as pids:
        victim = pids[0]
        waiting = fc.spawnat(victim, wait_for_ever)
        os.kill(fc.remotecall_fetch(victim, os.getpid), signal.SIGKILL)
        with pytest.raises(fc.ProcessExited, match=f"worker {victim} is gone"):
            waiting.result(20)
        assert until(lambda: fc.nworkers() == 2 and victim not in fc.workers(), 20)
        assert fc.remotecall_fetch(max(fc.workers()), abs, -1) == 1
    assert f"worker {victim} is gone: its connection to the Dask scheduler broke" in capfd.readouterr().err


def test_a_worker_that_dask_retires_says_so(own_dask, capfd):
    """The reason is Dask's."""
    with fc.addprocs(own_dask.address) as pids:
        own_dask.client.retire_workers([own_dask.address_of(pids[0])])
        assert until(lambda: fc.workers() == pids[1:], 20)
        with pytest.raises(fc.ProcessExited, match="Dask retired it"):
            fc.remotecall_fetch(pids[0], abs, -1)


@pytest.mark.parametrize("told_by", ["Dask", "a signal"])
def test_a_worker_that_closes_finishes_what_it_runs(own_dask, told_by):
    """Pools and maps, on any process, give it nothing new, and what it has been given ends as ever."""
    started, gate = fc.RemoteChannel(1, type=int), fc.RemoteChannel(1, type=str)

    def work():
        started.put(fc.myid())
        return gate.take()

    with fc.addprocs(own_dask.address) as others:
        own_dask.add(1)
        assert until(lambda: fc.nworkers() == 3, 40)
        closing = max(fc.workers())
        pool = fc.spawnat(others[0], fc.WorkerPool)
        begun = fc.spawnat(closing, work)
        assert started.take(10) == closing
        if told_by == "Dask":
            own_dask.client.retire_workers([own_dask.address_of(closing)])
        else:
            own_dask.processes[-1].send_signal(signal.SIGTERM)
        assert until(lambda: closing not in fc.default_worker_pool().workers(), 10)
        assert fc.WorkerPool([closing, *others]).workers() == others
        assert {fc.fetch(fc.spawnat("any", fc.myid)) for _ in range(9)} == set(others)
        assert set(fc.pmap(lambda _: fc.myid(), range(20))) <= set(others)
        assert until(lambda: fc.remotecall_fetch(others[0], lambda: fc.fetch(pool).workers()) == others, 10)
        gate.put("done")
        assert begun.result(10) == "done"
        with pytest.raises(fc.ProcessExited, match=r"Dask retired it|its Dask worker was closed"):
            until(lambda: fc.remotecall_fetch(closing, abs, -1) != 1, 10)


def test_causes_that_have_words_are_those_of_dask():
    """Each cause that we put into words is one that Dask names, and docs/deaths.md says what to do about it."""
    sources = [Path(each.__file__).read_text() for each in (distributed.scheduler, distributed.client)]
    assert [name for name in _REASONS if not any(f'f"{name}-' in source for source in sources)] == []
    text = (Path(__file__).parents[2] / "docs" / "deaths.md").read_text()
    assert [reason for reason in _REASONS.values() if f"`{reason}`" not in text] == []


def test_rmprocs_leaves_the_dask_worker_alone(dask):
    """The process of ours in it ends, with the calls under way; Dask's worker goes on."""
    fc.addprocs(dask.address)
    first, second = fc.workers()
    busy = fc.spawnat(first, wait_for_ever)
    fc.rmprocs(first)
    assert fc.workers() == [second]
    with pytest.raises(fc.ProcessExited, match="it was removed"):
        busy.result(10)
    assert len(dask.client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert dask.client.submit(abs, -3, pure=False).result(10) == 3


def test_rmprocs_can_retire_it(own_dask):
    """retire=True has Dask close its worker too; workers of this machine cannot be retired."""
    pids = fc.addprocs(own_dask.address)
    fc.rmprocs(pids[0], retire=True)
    assert until(lambda: len(own_dask.client.scheduler_info(n_workers=-1)["workers"]) == 1, 20)
    assert fc.workers() == [pids[1]]
    local = fc.addprocs(1)
    with pytest.raises(ValueError, match=f"worker {local[0]} is not one of a Dask cluster"):
        fc.rmprocs(local, retire=True)
    assert local[0] in fc.workers()


def test_a_cluster_without_workers_is_waited_for(tmp_path):
    """One that has none yet: those that come join; addprocs returns what is there."""
    empty = DaskCluster(tmp_path, 0)
    try:
        with fc.addprocs(empty.address) as pids:
            assert pids == []
            empty.add(1)
            assert until(lambda: fc.workers() != [1], 20)
    finally:
        empty.close()


def test_what_is_no_dask_cluster():
    """An address where nobody listens is a LaunchError that names it, and nothing is left."""
    with pytest.raises(fc.LaunchError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:9"):
        fc.addprocs("tcp://127.0.0.1:9", timeout=1)


def test_what_the_cluster_decides_is_not_taken(dask):
    """How many threads its workers have, their environment and their interpreter: the error says whose those are."""
    with pytest.raises(TypeError, match=r"^threads, env: give these to what starts the cluster's workers$"):
        fc.addprocs(dask.address, threads=2, env={"MINE": "yes"})


# Living together


def test_dask_goes_on_beside_calls(dask):
    """Dask's tasks run while calls block, and its event loop is not held up."""
    with fc.addprocs(dask.address) as pids:
        blocked = [fc.spawnat(pid, wait_for_ever) for pid in pids for _ in range(5)]
        futures = dask.client.map(lambda n: n + 1, range(50), pure=False)
        assert dask.client.gather(futures) == list(range(1, 51))
        assert all(not each.done() for each in blocked)


def test_what_calls_print_appears_here_and_what_tasks_print_does_not(dask, capfd):
    """In whole lines, in order, with the number of the worker; from threads as well."""

    def chatter():
        for n in range(50):
            print("line", n)
        print("no end", end="")
        print("error", file=sys.stderr)

    with fc.addprocs(dask.address) as [pid, _]:
        fc.remotecall_fetch(pid, chatter)
        dask.client.submit(print, "a task prints this", pure=False).result(10)
        dask.client.run(print, "and Dask this")
    out, err = capfd.readouterr()
    prefix = f"From worker {pid}:\t"
    assert out == "".join(f"{prefix}line {n}\n" for n in range(50)) + f"{prefix}no end\n"
    assert f"{prefix}error\n" in err


def test_everywhere_does_not_touch_dasks_main(dask):
    """What is defined on the workers is defined for this master alone."""
    with fc.addprocs(dask.address) as pids:
        fc.everywhere("secret = 42")
        assert fc.remotecall_fetch(pids[0], eval, "secret") == 42
        assert fc.remotecall_fetch(pids[0], lambda: secret) == 42  # noqa: F821
        assert not any(dask.client.run(lambda: hasattr(sys.modules["__main__"], "secret")).values())


MASTER = """
import os, sys, time
import farcall as fc
pids = fc.addprocs(sys.argv[1])
fc.everywhere("whose = 'theirs'")
def spin():
    while True:
        time.sleep(0.01)
waiting = fc.spawnat(pids[0], spin)
print(fc.remotecall_fetch(pids[0], os.getpid), flush=True)
sys.stdin.readline()
print(fc.remotecall_fetch(pids[0], eval, "whose"), fc.nworkers(), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another_master(address):
    """Another process that uses the same cluster; yields it and the process id of its first worker."""
    command = [sys.executable, "-c", MASTER, address]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_two_masters_do_not_see_each_other(dask):
    """They share the processes, and neither names nor numbers."""
    with another_master(dask.address) as (other, shared), fc.addprocs(dask.address) as pids:
        assert shared in [fc.remotecall_fetch(pid, os.getpid) for pid in pids]
        fc.everywhere("whose = 'ours'")
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "theirs 2\n"
        assert [fc.remotecall_fetch(pid, eval, "whose") for pid in pids] == ["ours"] * 2
        assert fc.workers() == pids


def test_a_master_that_is_killed_leaves_nothing_in_the_workers(dask):
    """Its calls are interrupted, its threads and plugins go, and later workers get none."""
    with another_master(dask.address) as (other, _):
        assert dask.plugins()
        other.kill()
        other.wait()
        assert until(lambda: dask.plugins() == [], 20), dask.stacks()


def test_one_process_can_be_master_and_host():
    """Dask workers that are threads of the master take part like any others."""
    in_threads = distributed.LocalCluster(n_workers=2, processes=False, dashboard_address=":0")
    with in_threads as cluster, fc.addprocs(cluster) as pids:
        assert [fc.remotecall_fetch(pid, fc.myid) for pid in pids] == pids
        assert fc.fetch(fc.spawnat(pids[0], lambda: fc.remotecall_fetch(pids[1], fc.myid))) == pids[1]
        assert fc.myid() == 1


def test_arrays_cross_and_channels_work(dask):
    """Large data between processes of one host, and a queue between two workers."""
    numpy = pytest.importorskip("numpy")
    with fc.addprocs(dask.address) as [first, second]:
        large = numpy.arange(1_000_000.0)
        assert fc.remotecall_fetch(first, numpy.sum, large) == large.sum()
        channel = fc.RemoteChannel(2, pid=first)
        fc.remote_do(second, lambda: [channel.put(n) for n in range(100)] and channel.close())
        assert list(channel) == list(range(100))


def test_a_call_can_be_cancelled_and_interrupted(dask):
    """As on any worker; Dask is not disturbed."""

    def spin(started):
        started.put(True)
        while True:
            time.perf_counter()

    with fc.addprocs(dask.address) as pids:
        started = fc.RemoteChannel(1)
        call = fc.spawnat(pids[0], spin, started)
        started.take(timeout=10)
        assert call.cancel()
        call = fc.spawnat(pids[0], spin, started)
        started.take(timeout=10)
        fc.interrupt(pids[0])
        with pytest.raises(KeyboardInterrupt):
            call.result(10)
        assert dask.client.submit(abs, -3, pure=False).result(10) == 3
