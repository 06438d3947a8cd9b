"""Where the time of calls between real processes of this machine went."""

import asyncio
import functools
import os
import threading
import time

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._node.current import current_call, current_node
from farcall._timed import _line

PARTS = ("queue", "transfer", "compilation", "run", "answer")


def nap(seconds=0.02):
    """Wait, and return for how long."""
    started = time.perf_counter()
    threading.Event().wait(seconds)
    return time.perf_counter() - started


def doze():
    """Wait in small steps, between which an interrupt can strike, until one does."""
    while True:
        nap(0.001)


async def async_nap():
    started = time.perf_counter()
    await asyncio.sleep(0.02)
    return time.perf_counter() - started


def check_parts(call):
    """The parts of an answered call are none below zero, and add up to its seconds."""
    parts = [getattr(call, each) for each in PARTS]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(call.seconds)


def test_a_call_is_counted_with_its_times(cluster):
    """A call counts with its messages and bytes, and its parts add up to what the caller waited for it at most."""
    fc.remotecall_fetch(cluster[0], nap, 0)
    with fc.timed(quiet=True) as t:
        waited = fc.remotecall_fetch(cluster[0], nap)
    (call,) = t.remote
    assert (call.function, call.where, call.state) == ("nap", cluster[0], "done")
    assert waited <= call.run <= call.seconds <= t.seconds
    assert call.compilation == 0
    check_parts(call)
    assert call.transfer > 0
    assert call.queue > 0
    assert call.answer > 0
    assert (t.calls, t.messages_out, t.messages_in) == (1, 1, 1)
    assert (t.bytes_out, t.bytes_in) == (call.bytes_out, call.bytes_in)
    assert 0 < t.bytes_in < 32  # nothing of ours


def test_a_function_that_is_sent_counts(cluster):
    """The message that defines a function counts once, with its bytes."""

    def later(x):
        return x

    with fc.timed(quiet=True) as first:
        fc.remotecall_fetch(cluster[0], later, 1)
    with fc.timed(quiet=True) as second:
        fc.remotecall_fetch(cluster[0], later, 1)
    assert (first.calls, first.messages_out, second.messages_out) == (1, 2, 1)
    assert first.bytes_out > second.bytes_out + 100


VALUES = [None, 7, "x" * 100_000, b"x" * 1_000_000, np.arange(10.0), np.arange(20_000.0), np.arange(200_000.0)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {len(str(value))}")
def test_values_are_what_they_are_without_it(cluster, value):
    """Arguments and values of each kind and size arrive whole, and the bytes in are those of the value."""
    with fc.timed(quiet=True) as t:
        answers = [
            fc.remotecall_fetch(cluster[0], lambda x: x, value),
            fc.fetch(fc.spawnat(cluster[0], lambda x: x, value)),
        ]
    for answer in answers:
        np.testing.assert_array_equal(answer, value)
    size = value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, (str, bytes)) else 1
    assert 2 * size <= t.bytes_in <= 2 * size + 1000
    assert 2 * size <= t.bytes_out <= 2 * size + 5000
    assert {call.state for call in t.remote} == {"done"}
    for call in t.remote:
        check_parts(call)


def test_references_arrive(cluster):
    """A reference in an argument and in a value is one at the other end."""
    channel = fc.RemoteChannel(1, pid=cluster[1])
    with fc.timed(quiet=True):
        again = fc.remotecall_fetch(cluster[0], lambda x: x, channel)
    again.put(5)
    assert channel.take() == 5


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("no")


def raise_unpicklable():
    raise Unpicklable("text")


def test_a_call_that_fails_says_so(cluster):
    """An error arrives as ever, also one that cannot be pickled and a value that cannot; its call has failed."""
    with fc.timed(quiet=True) as t:
        with pytest.raises(ZeroDivisionError, match="by zero"):
            fc.remotecall_fetch(cluster[0], divmod, 1, 0)
        with pytest.raises(fc.RemoteError, match="text"):
            fc.fetch(fc.spawnat(cluster[0], raise_unpicklable))
        with pytest.raises(fc.SerializationError):
            fc.remotecall_fetch(cluster[0], threading.Lock)
        with pytest.raises(fc.SerializationError):
            fc.remotecall_fetch(cluster[0], abs, threading.Lock())  # never sent
    assert [call.state for call in t.remote] == ["failed"] * 3
    assert t.calls == 3
    for call in t.remote:
        check_parts(call)


def unpickle_slowly():
    """Wait until the next call has arrived, and then for a while."""
    call = current_call.get()
    assert until(lambda: call.link.last_call is not call)
    threading.Event().wait(0.2)


class Slow:
    def __reduce__(self):
        return unpickle_slowly, ()


def test_a_call_that_must_wait_its_turn_shows_it(cluster):
    """What a call waits on the worker for the call before it to begin is its queue."""
    with fc.timed(quiet=True) as t:
        first = fc.spawnat(cluster[0], type, Slow())
        second = fc.spawnat(cluster[0], abs, -1)
        assert (fc.fetch(first), fc.fetch(second)) == (type(None), 1)
    assert t.remote[0].transfer >= 0.2
    assert t.remote[1].queue >= 0.1


def test_a_call_that_waits_for_a_worker_shows_it(cluster):
    """What a call waits for a free worker of a pool is its queue; it belongs to the block that asked for it."""
    pool, gate = fc.WorkerPool(cluster[:1]), fc.RemoteChannel(1)
    with fc.timed(quiet=True) as outer:
        with fc.timed(quiet=True) as t:
            first = fc.spawnat(pool, gate.take)
            second = fc.spawnat(pool, nap)
            assert t.calls == 1
        waited = nap()
        gate.put(1)
        assert (fc.fetch(first), fc.fetch(second) >= 0.02) == (1, True)
    assert t.calls == outer.calls == 2
    assert t.remote[1].queue >= waited
    check_parts(t.remote[1])


def test_what_has_no_answer_waits_for_a_worker_too(cluster):
    """A remote_do that waits for a free worker counts in the block that asked for it, which may have ended."""
    pool, gate = fc.WorkerPool(cluster[:1]), fc.RemoteChannel(1)
    with fc.timed(quiet=True) as t:
        fc.spawnat(pool, gate.take)
        fc.remote_do(pool, nap, 0)
    assert t.calls == 1
    waited = nap()
    gate.put(1)
    assert until(lambda: t.calls == 2)
    assert t.remote[1].state == "sent"
    assert t.remote[1].queue >= waited


def compile_there():
    from numba import njit

    return njit(lambda x: x * 3 + 1)(1)


def test_compilation_on_a_worker_shows(cluster):
    """What a worker compiles in a call is its compilation, and that of no thread here."""
    with fc.timed(quiet=True) as t:
        assert fc.remotecall_fetch(cluster[0], compile_there) == 4
    assert 0 < t.remote[0].compilation < t.remote[0].seconds
    assert t.compilation == 0
    assert "compilation on workers, 1 call, " in _line(t)
    check_parts(t.remote[0])


def test_many_calls_at_once_are_each_counted(cluster):
    """Calls that share messages' way and run on the reading thread have times of their own."""
    with fc.timed(quiet=True) as t:
        futures = [fc.spawnat(pid, abs, -number) for number in range(200) for pid in cluster]
        assert [future.result() for future in futures] == [number for number in range(200) for _ in cluster]
    assert t.calls == t.messages_in == 400
    assert [(row.function, row.where, row.calls, row.pending) for row in t.totals] == [
        ("abs", pid, 200, 0) for pid in cluster
    ]
    for call in t.remote:
        check_parts(call)
        assert call.run > 0


def test_a_coroutine_runs_until_it_ends(cluster):
    """The run of an async function is its whole time on the worker's loop, also when it fails."""

    async def fail():
        await asyncio.sleep(0.02)
        raise ValueError

    with fc.timed(quiet=True) as t:
        waited = fc.remotecall_fetch(cluster[0], async_nap)
        with pytest.raises(ValueError):
            fc.remotecall_fetch(cluster[0], fail)
    assert t.remote[0].run >= waited
    assert t.remote[1].run >= 0.02
    for call in t.remote:
        check_parts(call)


def test_a_call_without_an_answer_counts(cluster):
    """remote_do counts as a call and a message out."""
    with fc.timed(quiet=True) as t:
        fc.remote_do(cluster[0], abs, 1)
    assert (t.calls, t.messages_in, t.remote[0].state) == (1, 0, "sent")
    assert t.messages_out >= 1


def awaited():
    """Return the counted calls of this process whose answer has not come."""
    return [call for link in current_node().reader.links for call in link.timed.values()]


def test_what_comes_after_the_block_is_added(cluster):
    """A call that has not ended with the block is pending; its answer is added when it comes."""
    gate = fc.RemoteChannel(1)
    with fc.timed(quiet=True) as t:
        future = fc.spawnat(cluster[0], gate.take)
    assert (t.calls, t.messages_in, t.remote[0].state) == (1, 0, "pending")
    assert str(t).endswith("1 pending")
    assert len(awaited()) == 1
    gate.put(3)
    assert fc.fetch(future) == 3
    assert (t.calls, t.messages_in, t.remote[0].state) == (1, 1, "done")
    assert "pending" not in str(t)
    assert awaited() == []


def test_a_cancelled_call_says_so_and_leaves_nothing(cluster):
    """A cancelled call is noted as such, when its error comes back too, and nothing waits for it."""
    with fc.timed(quiet=True) as t:
        future = fc.spawnat(cluster[0], time.sleep, 100)
        assert future.cancel()
        assert fc.remotecall_fetch(cluster[0], abs, -1) == 1
        here = fc.spawnat(1, doze)
        assert until(lambda: here._call is not None)
        here.cancel()
        assert until(lambda: t.remote[2].state != "pending")
    assert [call.state for call in t.remote] == ["cancelled", "done", "cancelled"]
    assert awaited() == []


def test_a_worker_that_dies_loses_its_calls(cluster):
    """Calls to a worker that ends in the block are lost, and nothing waits for them."""
    with fc.addprocs(1) as (late,):
        with fc.timed(quiet=True) as t:
            waiting = fc.spawnat(late, time.sleep, 100)
            with pytest.raises(fc.ProcessExited):
                fc.remotecall_fetch(late, os._exit, 3)
            with pytest.raises(fc.ProcessExited):
                fc.fetch(waiting)
            with pytest.raises(fc.ProcessExited):
                fc.remotecall_fetch(late, abs, 1)  # is not sent
        assert [call.state for call in t.remote] == ["lost", "lost"]
        assert "1 lost" in str(t)
        assert awaited() == []


def test_maps_are_counted(cluster):
    """The calls that maps make count in the block around them, and their values are right."""
    with fc.timed(quiet=True) as t:
        assert fc.pmap(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert list(fc.imap(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert fc.pmapreduce(abs, max, range(-50, 0)) == 50
    states = [call.state for call in t.remote]
    assert states.count("done") == t.messages_in >= 3
    assert set(states) <= {"done", "cancelled"}  # the end of a map takes back what it does not need any more
    assert {call.where for call in t.remote} == set(cluster)


def test_channels_count_as_messages(cluster):
    """What a channel sends on behalf of the block are messages and bytes, not calls."""
    channel = fc.RemoteChannel(10, pid=cluster[0])
    channel.put(0)
    with fc.timed(quiet=True) as t:
        for _ in range(5):
            channel.put("x" * 1000)
        assert channel.take() == 0
        assert channel.take() == "x" * 1000
    assert t.calls == 0
    assert t.remote == []
    assert t.messages_out >= 5
    assert t.bytes_out >= 5000
    assert t.messages_in >= 1
    assert t.bytes_in >= 1000
    assert awaited() == []


def test_threads_count_apart(cluster):
    """A block counts the calls of its own thread, not those that others make meanwhile."""
    with fc.timed(quiet=True) as t:
        other = threading.Thread(target=fc.remotecall_fetch, args=(cluster[0], nap, 0))
        other.start()
        fc.remotecall_fetch(cluster[1], nap, 0.02)
        other.join()
    assert [call.where for call in t.remote] == [cluster[1]]
    assert (t.calls, t.messages_in) == (1, 1)


def test_tasks_count_apart(cluster):
    """Two tasks of an event loop, each with a block of its own, count each their own calls."""

    async def count(pid):
        with fc.timed(quiet=True) as t:
            for _ in range(3):
                await fc.spawnat(pid, nap, 0)
        return {call.where for call in t.remote}, t.calls, t.messages_in

    async def both():
        return await asyncio.gather(*map(count, cluster))

    assert asyncio.run(both()) == [({pid}, 3, 3) for pid in cluster]


def test_blocks_nest_around_calls(cluster):
    """A call counts in every block around it, with its answer."""
    with fc.timed(quiet=True) as outer:
        with fc.timed(quiet=True) as inner:
            fc.remotecall_fetch(cluster[0], nap, 0)
        fc.remotecall_fetch(cluster[0], nap, 0)
    assert (inner.calls, inner.messages_in, outer.calls, outer.messages_in) == (1, 1, 2, 2)
    assert inner.remote == outer.remote[:1]


def test_outside_a_block_nothing_is_asked_for(cluster):
    """A call outside of any block has no times, and its answer nothing at its end."""

    def is_watched():
        from farcall._node.current import current_call

        return current_call.get().watch is not None

    assert not fc.remotecall_fetch(cluster[0], is_watched)
    with fc.timed(quiet=True):
        assert fc.remotecall_fetch(cluster[0], is_watched)
    assert not fc.remotecall_fetch(cluster[0], is_watched)


@fc.timed
def shout(x):
    return x.upper()


def test_a_worker_times_too(cluster, capsys):
    """A timed call on a worker prints its line here, with the worker's number; so does a decorated function there."""
    assert fc.remotecall_fetch(cluster[0], fc.timed, abs, -1) == 1
    assert fc.remotecall_fetch(cluster[1], shout, "x") == "X"
    assert fc.remotecall_fetch(cluster[1], functools.partial(shout), "y") == "Y"
    printed = ""

    def has_come():
        nonlocal printed
        printed += capsys.readouterr().out
        return printed.count("\n") == 3

    assert until(has_come)
    assert printed.count(f"From worker {cluster[0]}:\t") == 1
    assert printed.count(f"From worker {cluster[1]}:\tshout: ") == 2
