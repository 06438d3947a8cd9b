"""What goes wrong between real processes, and how it is told."""

import os
import pickle
import signal
import threading
import time
import traceback
from concurrent.futures import CancelledError

import pytest
from waiting import until

import farcall as fc

pytestmark = pytest.mark.on_every_engine


def fail(text):
    raise ValueError(text)


class Awkward(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")


class Poison:
    """Pickles well and raises when unpickled."""

    def __init__(self, error=RuntimeError):
        self.error = error

    def __reduce__(self):
        return _raise, (self.error,)


def _raise(error):
    raise error("poison")


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("I do not travel")


def test_remote_exceptions_keep_their_type(cluster):
    """A remote exception is raised as itself, with a note that says where and the remote traceback as its cause."""
    with pytest.raises(ValueError, match="no good") as caught:
        fc.remotecall_fetch(cluster[0], fail, "no good")
    assert any(note.startswith(f"on worker {cluster[0]} (") for note in caught.value.__notes__)
    text = "".join(traceback.format_exception(caught.value))
    assert "raise ValueError(text)" in text
    assert "farcall/_node/callee" not in text
    future = fc.spawnat(cluster[1], fail, "again")
    with pytest.raises(ValueError, match="again"):
        future.result()
    assert isinstance(future.exception(), ValueError)


def test_an_exception_that_cannot_be_rebuilt_is_a_remote_error(cluster):
    """Its name and text arrive all the same."""
    with pytest.raises(fc.RemoteError, match="Awkward: 1-2"):
        fc.remotecall_fetch(cluster[0], lambda: (_ for _ in ()).throw(Awkward(1, 2)))


def test_an_unpicklable_exception_is_a_remote_error(cluster):
    """An exception that holds what cannot be pickled arrives by name and text."""

    def raise_with_lock():
        raise ValueError("locked", threading.Lock())

    with pytest.raises(fc.RemoteError, match=r"ValueError: .*locked"):
        fc.remotecall_fetch(cluster[0], raise_with_lock)


@pytest.mark.parametrize("poison", [Stubborn(), threading.Lock(), (x for x in ())], ids=["raises", "lock", "generator"])
def test_unpicklable_arguments(cluster, poison):
    """They are a SerializationError (a PicklingError) that names the type; nothing was sent and the link is up."""
    with pytest.raises(pickle.PicklingError, match=type(poison).__qualname__) as caught:
        fc.remotecall_fetch(cluster[0], len, poison)
    assert isinstance(caught.value, fc.SerializationError)
    with pytest.raises(fc.SerializationError):
        fc.spawnat(cluster[0], len, [poison])
    assert fc.remotecall_fetch(cluster[0], len, "abc") == 3


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_arguments_that_cannot_be_unpickled(cluster, error):
    """They are a SerializationError at the caller, SystemExit too; the worker and the link live on."""
    process = fc.remotecall_fetch(cluster[0], os.getpid)
    with pytest.raises(fc.SerializationError, match="poison"):
        fc.remotecall_fetch(cluster[0], len, Poison(error))
    assert fc.remotecall_fetch(cluster[0], os.getpid) == process


@pytest.mark.parametrize("make", [threading.Lock, Stubborn, lambda: Poison(SystemExit)])
def test_results_that_cannot_travel(cluster, make):
    """An unpicklable result, or one that breaks when it arrives, is a SerializationError; the link stays up."""
    with pytest.raises(fc.SerializationError):
        fc.remotecall_fetch(cluster[0], make)
    future = fc.spawnat(cluster[0], make)
    with pytest.raises(fc.SerializationError):
        future.result()
    assert fc.remotecall_fetch(cluster[0], len, "abc") == 3


def test_a_result_that_cannot_travel_can_be_used_where_it_is(cluster):
    """What spawnat made stays with its owner, whether or not it can be pickled."""
    lines = fc.spawnat(cluster[0], lambda: (each for each in "abc"))
    assert fc.remotecall_fetch(lines, lambda it: next(fc.fetch(it)), lines) == "a"
    assert fc.remotecall_fetch(lines, lambda it: next(fc.fetch(it)), lines) == "b"


def test_system_exit_arrives_and_ends_no_process(cluster):
    """SystemExit raised by a function arrives as itself."""
    process = fc.remotecall_fetch(cluster[0], os.getpid)
    with pytest.raises(SystemExit) as caught:
        fc.remotecall_fetch(cluster[0], lambda: (_ for _ in ()).throw(SystemExit(7)))
    assert caught.value.code == 7
    assert fc.remotecall_fetch(cluster[0], os.getpid) == process


@pytest.mark.needs_main_thread
def test_cancel_reaches_the_running_call(cluster):
    """cancel returns True, the call's finally blocks run, result raises CancelledError; the worker goes on."""
    two = cluster[0]
    fc.everywhere("events = []; begun = __import__('threading').Event()", pids=two)

    def work():
        try:
            begun.set()  # noqa: F821
            time.sleep(60)
        finally:
            events.append("cleaned up")  # noqa: F821

    future = fc.spawnat(two, work)
    assert fc.remotecall_fetch(two, eval, "begun.wait(10)")
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    assert until(lambda: fc.remotecall_fetch(two, eval, "events") == ["cleaned up"])
    done = fc.spawnat(two, len, "ab")
    assert done.result() == 2
    assert not done.cancel()


def test_cancel_reaches_python_code_on_any_thread(cluster):
    """A loop in Python is interrupted also when it runs beside another call."""
    two = cluster[0]
    fc.everywhere("ended = []; begun = __import__('threading').Semaphore(0)", pids=two)

    def spin():
        try:
            begun.release()  # noqa: F821
            while True:
                pass
        finally:
            ended.append(1)  # noqa: F821

    futures = [fc.spawnat(two, spin) for _ in range(3)]
    for _ in futures:
        assert fc.remotecall_fetch(two, eval, "begun.acquire(timeout=10)")
    for future in futures:
        assert future.cancel()
    assert until(lambda: fc.remotecall_fetch(two, eval, "len(ended)") == 3)


def test_cancel_reaches_the_calls_that_a_call_made(cluster):
    """Cancelling a call cancels the calls it waits for and the calls it spawned."""
    two, three = cluster
    fc.everywhere("hits = []; begun = __import__('threading').Semaphore(0)", pids=three)

    def leaf():
        try:
            begun.release()  # noqa: F821
            while True:
                time.sleep(0.01)
        finally:
            hits.append(1)  # noqa: F821

    def parent(waits):
        future = fc.spawnat(three, leaf)
        return fc.remotecall_fetch(three, leaf) if waits else (time.sleep(60), future)

    for waits, leaves in ((True, 2), (False, 1)):
        fc.everywhere("hits.clear()", pids=three)
        future = fc.spawnat(two, parent, waits)
        for _ in range(leaves):
            assert fc.remotecall_fetch(three, eval, "begun.acquire(timeout=10)")
        assert future.cancel()
        assert until(lambda n=leaves: fc.remotecall_fetch(three, eval, "len(hits)") == n)


def test_cancel_reaches_coroutines(cluster):
    """A coroutine is cancelled at its await."""
    two = cluster[0]
    fc.everywhere("done = []; begun = __import__('threading').Event()", pids=two)

    async def nap():
        import asyncio

        try:
            begun.set()  # noqa: F821
            await asyncio.sleep(60)
        finally:
            done.append(1)  # noqa: F821

    future = fc.spawnat(two, nap)
    assert fc.remotecall_fetch(two, eval, "begun.wait(10)")
    assert future.cancel()
    assert until(lambda: fc.remotecall_fetch(two, eval, "done") == [1])


def test_interrupt_ends_the_calls_under_way(cluster):
    """interrupt raises KeyboardInterrupt in each call there; an idle worker is left alone."""
    two, three = cluster
    fc.everywhere("begun = __import__('threading').Semaphore(0)", pids=two)

    def work():
        begun.release()  # noqa: F821
        while True:
            time.sleep(0.01)

    futures = [fc.spawnat(two, work) for _ in range(3)]
    for _ in futures:
        assert fc.remotecall_fetch(two, eval, "begun.acquire(timeout=10)")
    fc.interrupt(two, three)
    for future in futures:
        with pytest.raises(KeyboardInterrupt):
            future.result(10)
    assert [fc.remotecall_fetch(pid, fc.myid) for pid in cluster] == cluster


@pytest.mark.needs_main_thread
def test_ctrl_c_cancels_what_the_master_waits_for(cluster):
    """KeyboardInterrupt in a wait of the master cancels the call and keeps the cluster."""
    two = cluster[0]
    waits = (lambda: fc.remotecall_fetch(two, time.sleep, 60), lambda: fc.spawnat(two, time.sleep, 60).result())
    for wait_for in waits:
        timer = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        timer.start()
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            wait_for()
        timer.join()
        assert time.perf_counter() - started < 2
        assert until(lambda: fc.remotecall_fetch(two, lambda: threading.current_thread() is threading.main_thread()))


def test_ctrl_c_never_breaks_a_message(cluster):
    """However often Ctrl-C strikes during calls, no answer is lost or mixed up and the links stay whole."""
    two = cluster[0]
    stop = threading.Event()
    data = b"x" * 100_000

    def strike():
        while not stop.wait(0.003):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=strike)
    hits = rounds = 0
    thread.start()
    try:
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            try:
                rounds += 1
                assert fc.remotecall_fetch(two, lambda i, d: (i, len(d)), rounds, data) == (rounds, len(data))
            except KeyboardInterrupt:
                hits += 1
    finally:
        while True:
            try:
                stop.set()
                thread.join()
                threading.Event().wait(0.1)  # a stroke that was put off comes now
                break
            except KeyboardInterrupt:
                continue
    assert hits > 10
    assert fc.remotecall_fetch(two, len, data) == len(data)
