"""Interleavings that once went wrong, with real processes."""

import concurrent.futures
import threading
import time

import pytest

import farcall as fc


def test_answers_read_with_another_are_not_forgotten(cluster):
    """Who waits for one of many answers that come together leaves the others to those who wait in other ways."""
    for _ in range(30):
        futures = [fc.spawnat(cluster[0], abs, i) for i in range(40)]
        futures[0].result()
        assert len(list(concurrent.futures.as_completed(futures, timeout=10))) == 40


def test_a_cancelled_future_stays_cancelled(cluster):
    """Cancelling a queued or starting call is final, its callbacks run once, and the pool keeps its workers."""
    pool = fc.WorkerPool(cluster)
    calls = []
    for _ in range(200):
        future = fc.spawnat(pool, time.sleep, 0)
        future.add_done_callback(calls.append)
        if future.cancel():
            assert future.cancelled()
            with pytest.raises(concurrent.futures.CancelledError):
                future.result()
    assert sorted([pool.take(10), pool.take(10)]) == cluster
    assert not pool.isready()
    for pid in cluster:
        pool.put(pid)
    deadline = time.monotonic() + 5
    while len(calls) < 200 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert len(calls) == len({id(each) for each in calls}) == 200


def test_futures_of_an_interrupted_call_are_settled(cluster):
    """When a call is cancelled, whoever waits for a Future that it made is told."""
    two, three = cluster
    fc.everywhere("made = []; begun = __import__('threading').Event()", pids=two)

    def parent():
        import __main__

        __main__.made.append(fc.spawnat(three, time.sleep, 60))
        __main__.begun.set()
        time.sleep(60)

    future = fc.spawnat(two, parent)
    assert fc.remotecall_fetch(two, eval, "begun.wait(10)")
    other = fc.spawnat(two, eval, "made[0].result()")
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        other.result(10)


def test_a_pool_survives_calls_that_cannot_be_sent(cluster):
    """Any number of calls that cannot be pickled fail one by one, and those behind them run."""
    pool = fc.WorkerPool(cluster[:1])
    first = fc.spawnat(pool, time.sleep, 0.1)
    bad = [fc.spawnat(pool, len, threading.Lock()) for _ in range(600)]
    good = fc.spawnat(pool, abs, -5)
    assert good.result(20) == 5
    assert first.result() is None
    assert all(isinstance(each.exception(10), fc.SerializationError) for each in bad)


def test_a_pool_takes_back_only_who_is_there(cluster):
    """put of an id that never was is a ValueError, and putting twice frees once."""
    pool = fc.WorkerPool(cluster[:1])
    with pytest.raises(ValueError, match="77"):
        pool.put(77)
    pool.put(cluster[0])
    assert pool.take() == cluster[0]
    assert not pool.isready()
    with pytest.raises(TimeoutError):
        pool.take(timeout=0.05)
    pool.put(cluster[0])
    assert pool.isready()


def test_who_joins_meanwhile_is_not_missed():
    """A worker that joins while everywhere runs gets it too."""
    fc.addprocs(1)
    thread = threading.Thread(target=fc.everywhere, args=("import time; time.sleep(0.3); meanwhile = 1",))
    thread.start()
    (three,) = fc.addprocs(1)
    thread.join()
    assert fc.remotecall_fetch(three, eval, "meanwhile") == 1


def test_a_value_that_never_was_is_an_error_for_all(cluster):
    """Whoever asks for a value that nobody holds gets a LookupError, the second one too."""
    from farcall._remote import owner

    fc.everywhere("from farcall._remote import owner; owner._LATE = 0.2", pids=cluster[0])
    futures = [fc.spawnat(cluster[0], owner.value_of, (1, 10**9)) for _ in range(2)]
    for future in futures:
        with pytest.raises(LookupError, match="gone"):
            future.result(10)
    fc.everywhere("owner._LATE = 10.0", pids=cluster[0])
