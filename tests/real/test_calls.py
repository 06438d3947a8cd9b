"""Calls between real processes of this machine."""

import asyncio
import concurrent.futures
import os
import threading
import time
from functools import partial

import numpy as np
import pytest

import farcall as fc

pytestmark = pytest.mark.on_every_engine


def double(x):
    return 2 * x


def test_a_call_returns_the_value_of_the_function(cluster):
    """remotecall_fetch runs the function on the process named and returns its value."""
    two, three = cluster
    assert fc.remotecall_fetch(two, fc.myid) == two
    assert fc.remotecall_fetch(three, fc.myid) == three
    assert fc.remotecall_fetch(two, double, 21) == 42
    assert fc.remotecall_fetch(two, divmod, 17, 5) == (3, 2)
    assert fc.remotecall_fetch(two, dict, a=1, b="x") == {"a": 1, "b": "x"}


def test_spawnat_returns_at_once(cluster):
    """spawnat does not wait for the call; the Future does."""
    release = cluster[0]
    started = time.perf_counter()
    future = fc.spawnat(release, time.sleep, 0.3)
    assert time.perf_counter() - started < 0.2
    assert not future.done()
    assert future.where == release
    assert fc.fetch(future) is None
    assert time.perf_counter() - started >= 0.3


def test_fetch_of_no_reference_is_the_thing_itself(cluster):
    """fetch, wait and isready accept what is no reference."""
    assert fc.fetch(3) == 3
    assert fc.wait("x") == "x"
    assert fc.isready(None)


def test_a_call_runs_on_another_process(cluster):
    """A worker is a process of its own."""
    assert len({os.getpid(), *(fc.remotecall_fetch(pid, os.getpid) for pid in cluster)}) == 3


def test_calls_to_oneself_do_not_copy(cluster):
    """A call to one's own pid gets the very objects; a remote one gets copies."""
    items = []
    fc.remotecall_fetch(1, items.append, 1)
    fc.fetch(fc.spawnat(1, items.append, 2))
    fc.remotecall_fetch(cluster[0], items.append, 3)
    assert items == [1, 2]


def test_any_spreads_calls(cluster):
    """'any' is the worker with the fewest calls under way."""
    futures = [fc.spawnat("any", time.sleep, 0.2) for _ in range(4)]
    assert sorted(future.where for future in futures) == sorted(cluster * 2)
    concurrent.futures.wait(futures)


def test_a_call_follows_its_data(cluster):
    """where=Future runs the call where the value lives, and a Future passed there is its value without a copy."""
    data = fc.spawnat(cluster[1], np.arange, 100_000)
    where, total = fc.remotecall_fetch(data, lambda ref: (fc.myid(), int(fc.fetch(ref).sum())), data)
    assert where == cluster[1]
    assert total == 100_000 * 99_999 // 2


def test_a_pool_takes_one_call_per_worker(cluster):
    """A pool runs one call per worker at a time and queues the rest; spawnat returns at once all the same."""
    pool = fc.WorkerPool(cluster)
    started = time.perf_counter()
    futures = [fc.spawnat(pool, time.sleep, 0.1) for _ in range(4)]
    assert time.perf_counter() - started < 0.1
    assert [future.where for future in futures[2:]] == [None, None]
    for future in futures:
        future.result()
    assert 0.2 <= time.perf_counter() - started < 1
    assert sorted(future.where for future in futures) == sorted(cluster * 2)
    assert pool.take() in cluster


def test_wrong_places_are_named(cluster):
    """What is no process is an error that says what to write."""
    with pytest.raises(ValueError, match=r"no process 99 .* procs\(\)"):
        fc.spawnat(99, double, 1)
    with pytest.raises(ValueError, match="'any'"):
        fc.spawnat("all", double, 1)
    with pytest.raises(TypeError, match="WorkerPool"):
        fc.spawnat(2.5, double, 1)


def test_remote_wraps_a_function(cluster):
    """remote(f) calls f on a worker."""
    assert fc.remote(double)(4) == 8
    assert fc.remote(fc.myid, cluster[1])() == cluster[1]


def test_remote_do_has_its_effect(cluster):
    """remote_do runs the function and sends nothing back."""
    two = cluster[0]
    fc.remotecall_fetch(two, exec, "done = __import__('threading').Event()")
    fc.remote_do(two, exec, "done.set()")
    assert fc.remotecall_fetch(two, eval, "done.wait(10)")


def test_workers_call_each_other_and_the_master(cluster):
    """Calls nest: from a worker to another, back, and to the master."""
    two, three = cluster

    def chain(pids):
        return [fc.myid(), *(fc.remotecall_fetch(pids[0], chain, pids[1:]) if pids else [])]

    assert fc.remotecall_fetch(two, chain, [three, two, 1, three]) == [two, three, two, 1, three]


def test_coroutines_run_on_the_workers_loop(cluster):
    """An async function runs on the event loop of the worker; many at once."""

    async def nap(x):
        await asyncio.sleep(0.1)
        return x

    started = time.perf_counter()
    futures = [fc.spawnat(cluster[0], nap, i) for i in range(200)]
    assert [future.result() for future in futures] == list(range(200))
    assert time.perf_counter() - started < 3
    assert fc.remotecall_fetch(1, len, "abc") == 3
    assert fc.fetch(fc.spawnat(1, nap, 5)) == 5


def test_futures_can_be_awaited(cluster):
    """A Future is awaitable."""

    async def main():
        return await asyncio.gather(*(fc.spawnat(pid, double, pid) for pid in cluster))

    assert asyncio.run(main()) == [2 * pid for pid in cluster]


def test_a_thousand_calls_may_block_at_once(cluster):
    """Calls run concurrently: a thousand that wait for one another all end."""
    two = cluster[0]
    fc.everywhere("import threading; gate = threading.Barrier(1000)", pids=two)
    futures = [fc.spawnat(two, eval, "gate.wait(30)") for _ in range(1000)]
    assert sorted(future.result() for future in futures) == list(range(1000))


def test_calls_from_many_threads(cluster):
    """Any thread of the master may call, all at once, and each gets its own answer."""
    wrong = []

    def work(base):
        for i in range(300):
            pid = cluster[i % 2]
            value = fc.remotecall_fetch(pid, double, base + i) if i % 3 else fc.fetch(fc.spawnat(pid, double, base + i))
            if value != 2 * (base + i):
                wrong.append((base, i, value))

    threads = [threading.Thread(target=work, args=(1000 * k,)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_calls_start_in_the_order_sent(cluster):
    """Calls to one process start in the order in which they were sent, short and long ones mixed."""
    two = cluster[0]
    fc.everywhere("order = []", pids=two)

    def note(i):
        order.append(i)  # noqa: F821
        if i % 7 == 0:
            time.sleep(0.01)

    futures = [fc.spawnat(two, note, i) for i in range(300)]
    concurrent.futures.wait(futures)
    assert fc.remotecall_fetch(two, eval, "order") == list(range(300))


@pytest.mark.needs_main_thread
def test_the_first_call_runs_on_the_main_thread(cluster):
    """A call to an idle worker runs on its main thread, so that libraries which insist on it work."""
    for _ in range(20):
        assert fc.remotecall_fetch(cluster[0], lambda: threading.current_thread() is threading.main_thread())


def test_standard_library_functions_wait_for_futures(cluster):
    """as_completed, wait, add_done_callback work as with any concurrent.futures.Future."""
    futures = [fc.spawnat(cluster[i % 2], double, i) for i in range(50)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, timeout=10)) == [
        2 * i for i in range(50)
    ]
    called = threading.Event()
    future = fc.spawnat(cluster[0], double, 1)
    future.add_done_callback(lambda done: called.set())
    assert called.wait(10)
    slow = fc.spawnat(cluster[0], time.sleep, 0.5)
    done, waiting = concurrent.futures.wait([slow], timeout=0.05)
    assert (done, waiting) == (set(), {slow})
    assert slow.result() is None


def test_timeouts_raise_the_builtin(cluster):
    """Every timeout raises TimeoutError and leaves the call alone."""
    future = fc.spawnat(cluster[0], time.sleep, 0.4)
    with pytest.raises(TimeoutError):
        future.result(0.05)
    with pytest.raises(TimeoutError):
        fc.wait(future, 0.05)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)
    assert future.result() is None


def test_wait_does_not_bring_the_value(cluster):
    """wait waits for the end of the call; the value stays with its owner until it is fetched."""
    node = fc._cluster.master().node
    future = fc.wait(fc.spawnat(cluster[0], np.ones, 1_000_000))
    assert fc.isready(future)
    sent = fc.remotecall_fetch(cluster[0], _shared_copies)
    assert future.result().sum() == 1_000_000
    assert fc.remotecall_fetch(cluster[0], _shared_copies) == sent + 1
    assert node.pid == 1


def _shared_copies():
    from farcall._node.current import current_node

    return current_node().segments.copies


def test_reprs_are_status_lines(cluster):
    """repr says where and how far."""
    future = fc.spawnat(cluster[0], time.sleep, 0.2)
    assert repr(future) == f"<Future on worker {cluster[0]}: pending>"
    future.result()
    assert repr(future) == f"<Future on worker {cluster[0]}: ready>"
    assert "failed" in repr(_failed(cluster[0]))


def _failed(pid):
    future = fc.spawnat(pid, double)
    future.exception()
    return future


def test_partials_methods_and_callables_travel(cluster):
    """Anything callable that can be pickled can be called remotely."""

    class Adder:
        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return x + self.n

        def method(self, x):
            return x - self.n

    adder = Adder(5)
    two = cluster[0]
    assert fc.remotecall_fetch(two, partial(pow, 2), 5) == 32
    assert fc.remotecall_fetch(two, adder, 1) == 6
    assert fc.remotecall_fetch(two, adder.method, 1) == -4
    adder.n = 7
    assert fc.remotecall_fetch(two, adder, 1) == 8
    assert fc.remotecall_fetch(two, "a-b".split, "-") == ["a", "b"]
    assert fc.remotecall_fetch(two, np.sin, 0.0) == 0.0
