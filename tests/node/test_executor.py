"""User code runs on threads that are reused, and is interrupted where it is, never inside farcall."""

import asyncio
import concurrent.futures
import gc
import random
import signal
import sys
import threading
import time
import types
import weakref

import pytest
from waiting import until

from farcall._errors import SerializationError
from farcall._node.executor import Call, Definition, EventLoop, ThreadPool, on_interrupt_signal
from farcall._wire import pickles
from farcall._wire.messages import WANT_VALUE

PATIENCE = 20.0  # seconds; a test that needs them has failed


# Threads


@pytest.fixture
def pool():
    """Return a pool whose threads wait long for work."""
    threads = ThreadPool(PATIENCE, lambda: None)
    yield threads
    threads.close()
    threads.join(PATIENCE)
    assert not threads._all


def run_and_wait(pool, function, *args):
    """Run something in the pool and return its value once its thread is free again."""
    free, values = len(pool._free), []
    free -= bool(free)
    pool.run(lambda: values.append(function(*args)))
    assert until(lambda: values and len(pool._free) > free)
    return values[0]


def test_a_pool_runs_what_it_is_given(pool):
    """``run`` calls the function with its arguments, on a thread of its own."""
    assert run_and_wait(pool, lambda *args: (args, threading.current_thread()), 1, "two")[0] == (1, "two")
    assert run_and_wait(pool, threading.current_thread) is not threading.current_thread()


def test_a_free_thread_is_used_again(pool):
    """A thread that has nothing to do takes the next task."""
    threads = {run_and_wait(pool, threading.get_ident) for _ in range(20)}
    assert len(threads) == 1


def test_tasks_that_block_each_other_all_run(pool):
    """The pool grows as needed: a task never waits for another one to end."""
    barrier = threading.Barrier(50)
    passed = []
    for _ in range(50):
        pool.run(lambda: passed.append(barrier.wait(PATIENCE)))
    assert until(lambda: len(passed) == 50)
    assert until(lambda: len(pool._free) == 50)


def test_an_idle_thread_ends():
    """A thread that found nothing to do for the given time ends, and a new one begins when there is a task."""
    pool = ThreadPool(0.001, lambda: None)
    threads = []
    for _ in range(3):
        pool.run(lambda: threads.append(threading.current_thread()))
        assert until(lambda: threads)
        threads.pop().join(PATIENCE)
        assert not pool._all
        assert not pool._free
    pool.close()


def test_no_task_is_lost_to_a_thread_that_ends():
    """A task that comes just when its thread has idled long enough runs nevertheless."""
    pool = ThreadPool(0.0, lambda: None)
    count = []
    for number in range(1000):
        pool.run(count.append, number)
    assert until(lambda: len(count) == 1000)
    assert sorted(count) == list(range(1000))
    pool.close()
    pool.join(PATIENCE)
    assert not pool._all


def test_closing_ends_threads_when_they_are_idle(pool):
    """``close`` ends idle threads at once and busy ones after their task; ``join`` waits for them."""
    run_and_wait(pool, lambda: None)
    started, proceed = threading.Event(), threading.Event()
    finished = []
    for _ in range(2):
        pool.run(lambda: (started.set(), proceed.wait(PATIENCE), finished.append(1)))
    assert started.wait(PATIENCE)
    pool.close()
    pool.join(0.0)
    assert len(pool._all) == 2
    proceed.set()
    pool.join(PATIENCE)
    assert not pool._all
    assert finished == [1, 1]


def test_a_pool_thread_may_join_its_own_pool(pool):
    """``join`` from inside the pool waits for the other threads only."""
    pool.run(lambda: (pool.close(), pool.join(PATIENCE)))
    assert until(lambda: not pool._all)


def test_each_thread_begins_with_the_context():
    """What identifies the node is run first in each thread, once."""
    entered = []
    pool = ThreadPool(PATIENCE, lambda: entered.append(threading.get_ident()))
    threads = [run_and_wait(pool, threading.get_ident) for _ in range(3)]
    assert entered == threads[:1]
    pool.close()
    pool.join(PATIENCE)


def test_an_idle_thread_keeps_nothing_alive(pool):
    """When a task has ended its function and its arguments can be freed, though the thread lives."""
    argument = threading.Event()
    gone = weakref.ref(argument)
    pool.run(lambda argument: None, argument)
    del argument
    assert until(lambda: pool._free)
    gc.collect()
    assert gone() is None


# Interrupts


class FakeNode:
    """Takes note of which calls are cancelled."""

    def __init__(self):
        self.cancelled = []
        self.own_calls = {}
        self.pool = None
        self.callee = None

    def cancel(self, link, number):
        self.cancelled.append((link, number))


class Running:
    """A call that runs on a thread of its own. ``outcome`` is its value or its error."""

    def __init__(self, function, call=None):
        self.call = call or make_call()
        self.clean = False
        self._outcome = None
        self.thread = threading.Thread(target=self._run, args=(function,))
        self.thread.start()

    def _run(self, function):
        try:
            self._outcome = self.call.run(function, (self.call,), {})
        except BaseException as error:
            self._outcome = error
        for _ in range(1000):
            pass  # an interrupt that is still under way would strike here
        self.clean = True

    def outcome(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the call does not end"
        assert self.clean, "an interrupt struck after the call"
        return self._outcome


def make_call(node=None):
    return Call(node or FakeNode(), None, 1, WANT_VALUE)


class Signal:
    """An event of which an interrupt cannot leave one half: the methods of ``threading.Event`` are Python code."""

    def __init__(self):
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self):
        self._lock.release()

    def wait(self):
        assert self._lock.acquire(timeout=PATIENCE), "nothing came"


@pytest.fixture
def started():
    return Signal()


@pytest.fixture
def proceed():
    return Signal()


def interrupt(running, started):
    """Interrupt a call that has started and return its outcome."""
    started.wait()
    running.call.interrupt()
    return running.outcome()


def compute(started):
    """Run forever, as a loop of the user's does."""
    started.set()
    while True:
        pass


def test_a_call_returns_its_value_or_raises_its_error():
    """``run`` is the function, as long as nobody interrupts."""
    assert make_call().run(divmod, (17, 5), {}) == (3, 2)
    assert make_call().run(dict, (), {"key": 1}) == {"key": 1}
    with pytest.raises(ZeroDivisionError):
        make_call().run(divmod, (1, 0), {})


def test_an_interrupt_is_raised_in_user_code(started):
    """A call that computes is interrupted by a KeyboardInterrupt."""
    assert isinstance(interrupt(Running(lambda call: compute(started)), started), KeyboardInterrupt)


def test_finally_blocks_run(started):
    """An interrupted call cleans up after itself."""
    log = []

    def function(call):
        try:
            compute(started)
        finally:
            log.append("cleaned")

    assert isinstance(interrupt(Running(function), started), KeyboardInterrupt)
    assert log == ["cleaned"]


def test_a_shielded_section_is_not_interrupted(started, proceed):
    """An interrupt that comes while the thread is inside farcall is raised when it leaves."""
    log = []

    def function(call):
        call.shield()
        started.set()
        proceed.wait()
        log.append("whole")
        call.unshield()
        log.append("never")

    running = Running(function)
    started.wait()
    running.call.interrupt()
    proceed.set()
    assert isinstance(running.outcome(), KeyboardInterrupt)
    assert log == ["whole"]


def test_an_interrupt_is_raised_on_entering_a_shielded_section(started, proceed):
    """An interrupt that came before, and was not raised yet, is raised before anything of ours begins."""
    log = []

    def function(call):
        call.shield()
        started.set()
        proceed.wait()
        call.shielded = False
        call.shield()
        log.append("never")

    running = Running(function)
    started.wait()
    running.call.interrupt()
    proceed.set()
    assert isinstance(running.outcome(), KeyboardInterrupt)
    assert not log


@pytest.fixture
def hurried():
    """Switch threads as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_an_interrupt_at_any_moment_spares_shielded_sections(hurried):
    """Wherever the thread is when the interrupt comes, it is raised soon, and never inside farcall."""
    for _ in range(500):
        inside, rounds = [False], []

        def function(call, inside=inside, rounds=rounds):
            while True:
                call.shield()
                inside[0] = True
                rounds.append(len(rounds))
                inside[0] = False
                call.unshield()
                rounds.append(len(rounds))

        running, enough = Running(function), random.randrange(300)
        while len(rounds) < enough:
            pass
        running.call.interrupt()
        assert isinstance(running.outcome(), KeyboardInterrupt)
        assert inside == [False]


def test_an_interrupt_at_the_end_strikes_the_call_or_nothing(hurried):
    """An interrupt that races with the end of a call is raised in it or not at all, and never later."""
    outcomes = set()
    for _ in range(500):
        begun, length = [], random.randrange(3000)

        def function(call, begun=begun, length=length):
            begun.append(1)
            for _ in range(length):
                pass
            return "value"

        running = Running(function)
        while not begun:
            pass
        running.call.interrupt()
        outcomes.add(repr(running.outcome()))
    assert outcomes <= {"'value'", "KeyboardInterrupt()"}


def test_a_call_interrupted_before_it_begins_does_not_begin():
    """A call that was cancelled on its way to its thread raises KeyboardInterrupt and runs nothing."""
    call, log = make_call(), []
    call.interrupt()
    assert isinstance(Running(log.append, call).outcome(), KeyboardInterrupt)
    assert not log


def test_interrupting_what_has_ended_is_nothing(started):
    """A call that has ended is not interrupted, and its thread is not struck."""
    running = Running(lambda call: "value")
    assert running.outcome() == "value"
    running.call.interrupt()


def test_a_second_interrupt_is_nothing(started, proceed):
    """A call that deals with its interrupt and goes on is not interrupted again."""
    caught = Signal()

    def function(call):
        try:
            compute(started)
        except KeyboardInterrupt:
            caught.set()
        proceed.wait()
        return "survived"

    running = Running(function)
    started.wait()
    running.call.interrupt()
    caught.wait()
    running.call.interrupt()
    proceed.set()
    assert running.outcome() == "survived"


def test_an_interrupt_is_raised_once_though_the_finally_block_shields(started):
    """Calls to farcall in a finally block are not interrupted by the interrupt that led there."""
    log = []

    def function(call):
        try:
            compute(started)
        finally:
            for _ in range(3):
                call.shield()
                call.unshield()
            log.append("cleaned")

    assert isinstance(interrupt(Running(function), started), KeyboardInterrupt)
    assert log == ["cleaned"]


def test_an_interrupt_is_raised_once_though_the_finally_block_handles_errors(started):
    """A finally block may call farcall while it handles an error of its own."""
    log = []

    def function(call):
        try:
            compute(started)
        finally:
            try:
                raise ValueError
            except ValueError:
                call.shield()
                call.unshield()
            log.append("cleaned")

    assert isinstance(interrupt(Running(function), started), KeyboardInterrupt)
    assert log == ["cleaned"]


def test_an_interrupt_that_was_dealt_with_is_over(started):
    """A call that catches its interrupt may go on to call farcall, and is not interrupted again."""

    def function(call):
        try:
            compute(started)
        except KeyboardInterrupt:
            pass
        call.shield()
        call.unshield()
        return "survived"

    assert interrupt(Running(function), started) == "survived"


def test_an_interrupt_wakes_a_wait_and_cancels_the_calls_made(started, proceed):
    """Whoever sleeps inside farcall is woken to look, and the calls that the call made are cancelled, too."""
    node = FakeNode()
    call = make_call(node)
    call.sleeper = proceed.set
    futures = {7: concurrent.futures.Future(), 8: concurrent.futures.Future()}
    link = types.SimpleNamespace(pending=futures)
    call.add_child(link, 7)
    call.add_child(link, 8)
    call.add_child(None, 9)  # to this process itself
    node.own_calls[9] = make_call(node)

    def function(call):
        call.shield()
        started.set()
        proceed.wait()
        call.unshield()

    assert isinstance(interrupt(Running(function, call), started), KeyboardInterrupt)
    assert all(future.cancelled() for future in futures.values())
    assert (None, 9) in node.cancelled


def test_calls_that_were_answered_are_not_remembered():
    """A call that makes very many calls remembers those that are under way, and a bounded number of others."""
    call, link = make_call(), types.SimpleNamespace(pending={5})
    for number in range(1000):
        call.add_child(link, number)
    assert (link, 5) in call.children
    assert len(call.children) <= 128


def test_calls_begin_in_their_order():
    """A call that follows another one on its link does not begin before it, whichever thread is quicker."""
    log = []
    first, second = make_call(), make_call()
    second.after = first
    running = Running(lambda call: log.append("second"), second)
    assert until(lambda: first.successors)
    first.run(log.append, ("first",), {})
    assert running.outcome() is None
    assert log == ["first", "second"]


def test_a_call_may_begin_long_after_the_one_before_it():
    """A call whose predecessor has begun, or even ended, waits for nothing."""
    first, second = make_call(), make_call()
    first.begin()
    first.begin()
    second.after = first
    assert second.run(lambda: "value", (), {}) == "value"


@pytest.fixture
def on_main():
    """Return a call that runs on the main thread, where SIGINT is for it."""
    call = make_call()
    call.main = True
    before = signal.signal(signal.SIGINT, lambda number, frame: on_interrupt_signal(call))
    yield call
    signal.signal(signal.SIGINT, before)


def interrupt_soon(call, started):
    thread = threading.Thread(target=lambda: (started.wait(), call.interrupt()))
    thread.start()
    return thread


def test_an_interrupt_on_the_main_thread_ends_a_sleep(on_main, started):
    """A call on the main thread is interrupted by a signal, also while it sleeps outside Python's reach."""
    thread = interrupt_soon(on_main, started)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        on_main.run(lambda: (started.set(), threading.Event().wait(PATIENCE)), (), {})
    assert time.monotonic() - began < PATIENCE
    thread.join(PATIENCE)


def test_an_interrupt_on_the_main_thread_is_raised_once(on_main, started):
    """A finally block on the main thread may call farcall, and an interrupt that was dealt with is over."""
    thread = interrupt_soon(on_main, started)

    def function():
        try:
            compute(started)
        except KeyboardInterrupt:
            pass
        on_main.shield()
        on_main.unshield()
        return "survived"

    assert on_main.run(function, (), {}) == "survived"
    thread.join(PATIENCE)


def test_an_interrupt_on_the_main_thread_spares_shielded_sections(on_main, started):
    """A signal that comes while the main thread is inside farcall waits until it leaves."""
    log = []

    def function():
        on_main.shield()
        started.set()
        assert until(lambda: on_main.cancelled)
        log.append("whole")
        on_main.unshield()
        log.append("never")

    thread = interrupt_soon(on_main, started)
    with pytest.raises(KeyboardInterrupt):
        on_main.run(function, (), {})
    thread.join(PATIENCE)
    assert log == ["whole"]


def test_a_signal_for_nobody_is_ignored():
    """SIGINT on an idle main thread, or one whose call was not interrupted or has ended, does nothing."""
    on_interrupt_signal(None)
    call = make_call()
    on_interrupt_signal(call)
    call.running = True
    on_interrupt_signal(call)
    call.cancelled, call.running = True, False
    on_interrupt_signal(call)
    call.running = call.shielded = True
    on_interrupt_signal(call)
    call.shielded = False
    with pytest.raises(KeyboardInterrupt):
        on_interrupt_signal(call)
    on_interrupt_signal(call)


# Definitions


def parts_of(value):
    payload = pickles.encode(value)
    return payload.body, [each.view for each in payload.buffers], [], []


def test_a_definition_is_unpickled_once():
    """A function that a peer defined is one object here, made when it is first called."""
    definition = Definition(parts_of([]), fresh=False)
    assert definition.function() is definition.function()


def test_a_fresh_definition_is_unpickled_for_each_call():
    """A function with state begins each call with the state that was sent, large buffers included."""
    definition = Definition(parts_of([bytearray(b"state" * 10_000)]), fresh=True)
    first = definition.function()
    first[0][:5] = b"spoil"
    second = definition.function()
    assert second[0] == b"state" * 10_000
    assert second is not first


def test_a_definition_that_cannot_be_unpickled_fails_each_time():
    """The error of a definition is the error of every call of it."""
    definition = Definition((b"garbage", [], [], []), fresh=False)
    for _ in range(2):
        with pytest.raises(SerializationError):
            definition.function()


def test_the_cost_of_a_function_follows_its_times():
    """The average begins with the first run and moves toward later ones."""
    definition = Definition((), fresh=False)
    assert definition.cost is None
    definition.took(1.0)
    assert definition.cost == 1.0
    for _ in range(100):
        definition.took(0.0)
    assert 0.0 < definition.cost < 0.001


# Coroutines


@pytest.fixture
def coroutines(pool):
    """Return a function that runs a coroutine as a call, and the call."""
    node = FakeNode()
    node.pool = pool
    loop = EventLoop()
    node.callee = types.SimpleNamespace(event_loop=lambda: loop)
    call = make_call(node)
    outcomes = []

    def run(coroutine):
        loop.start(call, coroutine, lambda value, error: outcomes.append((value, error)))
        return outcomes

    yield run, call
    loop.close()
    assert not loop._thread.is_alive()


def test_a_coroutine_ends_with_its_value(coroutines):
    """A coroutine runs on the loop, and its value goes to a thread of the pool."""
    run, _ = coroutines

    async def function():
        await asyncio.sleep(0)
        return threading.current_thread().name

    outcomes = run(function())
    assert until(lambda: outcomes)
    assert outcomes == [("farcall-asyncio", None)]


def test_a_coroutine_ends_with_its_error(coroutines):
    """What a coroutine raises goes to a thread of the pool."""
    run, _ = coroutines

    async def function():
        raise ValueError("no")

    outcomes = run(function())
    assert until(lambda: outcomes)
    assert repr(outcomes) == "[(None, ValueError('no'))]"


def test_a_coroutine_is_interrupted_while_it_waits(coroutines):
    """An interrupted coroutine runs its finally blocks and ends with KeyboardInterrupt."""
    run, call = coroutines
    log = []

    async def function():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("cleaned")

    outcomes = run(function())
    assert until(lambda: call.task is not None)
    call.interrupt()
    assert until(lambda: outcomes)
    assert isinstance(outcomes[0][1], KeyboardInterrupt)
    assert log == ["cleaned"]


def test_a_coroutine_interrupted_before_it_begins_does_not_end_well(coroutines):
    """An interrupt that comes before the loop has begun the coroutine is not lost."""
    run, call = coroutines
    call.interrupt()

    async def function():
        await asyncio.get_running_loop().create_future()

    outcomes = run(function())
    assert until(lambda: outcomes)
    assert isinstance(outcomes[0][1], KeyboardInterrupt)
