"""Runs the user's code: in threads, as coroutines, interruptibly.

A call can be interrupted at any point of the user's code and at no point of ours. Both sides of that race write
first and read then: whoever interrupts sets ``cancelled`` and looks at ``shielded``, the running thread sets
``shielded`` and looks at ``cancelled``, so at least one of them sees the other.
"""

import contextvars
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from .._transport.shm import Mapping
from .._types import CallId
from .._wire import pickles
from .current import main_namespace
from .slots import Parker, wake

if TYPE_CHECKING:
    from .link import Link
    from .metering import Stopwatch
    from .node import Node

SHORT = 200e-6  # seconds; what takes less on average runs on the thread that reads, at the price of delaying it
STALLED = 100 * SHORT  # the average of a function that has just held up others; it can recover
_FORGETTING = 0.1  # weight of the newest time in that average


class Definition:
    """A function that a peer has defined here. ``cost`` is its average time in seconds, None before its first run."""

    __slots__ = ("_function", "_lock", "cost", "fresh", "name", "parts")

    def __init__(self, parts: tuple[Any, ...], fresh: bool) -> None:
        self.parts: tuple[Any, ...] | None = parts  # body, buffers, indexed, holds
        self.fresh = fresh
        self.cost: float | None = None
        self.name = "a call"  # that of the function once it has been unpickled
        self._function: Any = None
        self._lock = threading.Lock()

    def function(self) -> Any:
        """Return the function, unpickled once, or each time if it carries state that a call may change."""
        function = self._function
        if function is not None:
            return function
        with self._lock:
            if self._function is None:
                assert self.parts is not None
                body, buffers, indexed, holds = self.parts
                if self.fresh:
                    copies = [copy_buffer(each) for each in buffers], [copy_buffer(each) for each in indexed]
                    return self._note_name(pickles.decode(body, *copies, holds))
                self._function = at_home(self._note_name(pickles.decode(body, buffers, indexed, holds)))
                self.parts = None
            return self._function

    def _note_name(self, function: Any) -> Any:
        self.name = getattr(function, "__qualname__", self.name)
        return function

    def took(self, seconds: float) -> None:
        """Learn from a run how long this function takes."""
        cost = self.cost
        self.cost = seconds if cost is None else cost + _FORGETTING * (seconds - cost)


def at_home(function: Any) -> Any:
    """Return a function as it is to be called here: ``eval`` and ``exec`` look names up in ``__main__``."""
    if function is eval:
        return _eval_in_main
    return _exec_in_main if function is exec else function


def _eval_in_main(source: Any, globals: Any = None, locals: Any = None, /) -> Any:
    return eval(source, main_namespace() if globals is None else globals, locals)


def _exec_in_main(source: Any, globals: Any = None, locals: Any = None, /) -> None:
    exec(source, main_namespace() if globals is None else globals, locals)


def copy_buffer(buffer: Any) -> Any:
    """Return memory of its own with the content of a buffer that is never written."""
    if isinstance(buffer, Mapping):
        return buffer.again()
    return None if buffer is None else bytearray(buffer)


_INSISTS = 0.01  # seconds after which an interrupt of the main thread is repeated the first time
_interrupting = threading.Lock()  # held while an interrupt is being sent, which is short and rare


class Interrupt(KeyboardInterrupt):
    """What the interpreter raises in a thread: it is made at the moment when it is raised, and says so."""

    call: "Call"

    def __init__(self) -> None:
        super().__init__()
        self.call.delivered = True


class Call:
    """A call that runs in this process, or is about to. Also the answer to "which node am I": see ``current``."""

    __slots__ = (
        "after",
        "begun",
        "cancelled",
        "cell",
        "children",
        "delivered",
        "link",
        "main",
        "node",
        "number",
        "running",
        "shielded",
        "sleeper",
        "successors",
        "task",
        "thread",
        "want",
        "watch",
    )

    def __init__(self, node: "Node", link: "Link | None", number: CallId, want: int) -> None:
        self.node = node
        self.link = link
        self.number = number
        self.want = want
        self.cancelled = False
        self.delivered = False  # the interrupt has been raised
        self.running = False  # the user's code is on ``thread``
        self.shielded = False  # ... but inside farcall now, where it looks at ``cancelled`` itself
        self.sleeper: Callable[[], None] | None = None  # wakes the thread from a wait in farcall
        self.thread = 0
        self.main = False
        self.task: Any = None  # of a coroutine
        self.after: Call | None = None  # the call before this one on its link, if that has not begun yet
        self.begun = False
        self.successors: list[Parker] = []  # threads of calls that must not begin before this one
        self.children: list[tuple[Any, CallId]] = []  # calls it made without waiting: their links and numbers
        self.watch: Stopwatch | None = None  # of a call that a ``timed`` block counts
        self.cell = 0  # of the notebook, that caused it

    @property
    def is_due(self) -> bool:
        """Whether an interrupt has come that has not been raised yet."""
        return self.cancelled and not self.delivered

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the call, wherever it is. Once; any thread."""
        with _interrupting:
            if self.cancelled:
                return
            self.cancelled = True
            if self.task is not None:
                self.node.callee.event_loop().loop.call_soon_threadsafe(self.task.cancel)
            elif self.running and self.main:
                signal.pthread_kill(self.thread, signal.SIGINT)  # also ends sleeps; see ``on_interrupt_signal``
                threading.Thread(target=self._insist, name="farcall-interrupt", daemon=True).start()
            elif self.running and not self.shielded:
                _raise_in_thread(self.thread, type("KeyboardInterrupt", (Interrupt,), {"call": self}))
        sleeper = self.sleeper
        if sleeper is not None:
            sleeper()
        self._cancel_children()

    def _insist(self) -> None:
        """Signal again until it is heard: a signal that comes just before the thread falls asleep does not wake it."""
        patience = _INSISTS
        while True:
            time.sleep(patience)
            with _interrupting:
                if not self.running or self.shielded or self.delivered:
                    return
                signal.pthread_kill(self.thread, signal.SIGINT)
            patience = min(2 * patience, 1.0)

    def interrupt_later(self) -> None:
        """Raise once more an interrupt that was raised in a finalizer, out of which nothing can be raised."""
        self.shielded = self.cancelled = self.delivered = False
        self.node.references.later(self.interrupt)

    def _cancel_children(self) -> None:
        for link, number in list(self.children):
            target = link.pending.get(number) if link is not None else None
            if target is not None:
                target.cancel()
            else:
                self.node.cancel(link, number)

    def shield(self) -> None:
        """Enter farcall from the call's own thread: no interrupt until ``unshield``."""
        self.shielded = True
        if self.cancelled:
            self.check()

    def unshield(self) -> None:
        """Return to the user's code; an interrupt that came meanwhile is raised now."""
        self.shielded = False
        if self.cancelled:
            self.check()

    def check(self) -> None:
        """Raise the interrupt here if it is due and has not been raised yet. The call's own thread, shielded."""
        if not self.cancelled or self.delivered:
            return
        self._take_back()
        if self.delivered:
            return  # raised in the user's code before, whose finally blocks may run now
        self.delivered = True
        self._cancel_children()  # one may have been added after the interrupter looked
        raise KeyboardInterrupt

    def _take_back(self) -> None:
        """Wait until the interrupter is through, and unset what it has set in this thread."""
        with _interrupting:
            pass
        if not self.main:
            _raise_nothing()

    def add_child(self, link: Any, number: CallId) -> None:
        """Remember a call that this one made and does not wait for."""
        children = self.children
        if len(children) >= 64 and not len(children) & (len(children) - 1):
            own = self.node.own_calls
            self.children = children = [
                (link, number) for link, number in children if number in (own if link is None else link.pending)
            ]
        children.append((link, number))

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the user's code; an interrupt is raised inside it or not at all."""
        self.thread = threading.get_ident()
        if self.after is not None:
            self._await_turn(self.after)
        if self.watch is not None:
            self.watch.begin()
        self.begin()
        try:
            self.running = True
            try:
                if self.cancelled:
                    self.check()
                return function(*args, **kwargs)
            finally:
                self.running = False
        finally:
            if self.cancelled:
                self._settle_interrupt()

    def begin(self) -> None:
        """Let the calls behind this one begin; again is no error."""
        self.begun = True
        if self.successors:
            wake(self.successors)

    def _await_turn(self, before: "Call") -> None:
        """Wait until the call before this one has begun: calls start in the order in which they were sent."""
        parker = Parker()
        before.successors.append(parker)
        started = time.perf_counter() if self.watch is not None else 0.0
        while not before.begun:
            parker.park()
        self.after = None
        if self.watch is not None:
            self.watch.wait(started)

    def _settle_interrupt(self) -> None:
        """Take back an interrupt that has not been raised, so that it hits nothing of ours."""
        try:
            self._take_back()
        except KeyboardInterrupt:
            pass  # raised at the last moment


def _raise_in_thread(thread: int, error: type[BaseException]) -> None:
    """Have an exception raised in a thread at its next bytecode, instead of one that has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


class _Nothing(BaseException):
    """Stands in for an interrupt that is not wanted any more."""


def _raise_nothing() -> None:
    """Take back what was to be raised in this thread.

    An interpreter before 3.13 that is told to raise nothing looks for it for ever, and hangs in the first function
    that a debugger or a coverage tool traces. So something is raised, and caught here.
    """
    try:
        _raise_in_thread(threading.get_ident(), _Nothing)
        for _ in range(100):
            pass  # it strikes here at the latest
    except _Nothing:
        pass


class ThreadPool:
    """Threads that run one thing after another and end when idle. Grows as needed: calls may block each other."""

    def __init__(self, idle: float, context: Callable[[], None]) -> None:
        self._idle = idle
        self._context = context  # run first in each thread
        self._free: list[_Thread] = []
        self._all: set[_Thread] = set()
        self._closed = False

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Run something on a thread of its own, soon."""
        try:
            thread = self._free.pop()
        except IndexError:
            thread = _Thread(self)
            thread.task = function, args
            self._all.add(thread)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down and starts no more threads
                self._all.discard(thread)
                function(*args)
            return
        thread.task = function, args
        thread.parker.unpark()

    def close(self) -> None:
        """Have idle threads end, and the others when they become idle."""
        self._closed = True
        while self._free:
            self._free.pop().parker.unpark()

    def join(self, timeout: float) -> None:
        """Wait for the threads to end, for a limited time."""
        deadline = time.monotonic() + timeout
        for thread in list(self._all):
            if thread is not threading.current_thread() and thread.ident is not None:  # else it is just being started
                thread.join(max(0.0, deadline - time.monotonic()))


class _Thread(threading.Thread):
    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(name="farcall-call", daemon=True)
        self.pool = pool
        self.parker = Parker()
        self.task: tuple[Callable[..., None], tuple[Any, ...]] | None = None

    def run(self) -> None:
        pool = self.pool
        pool._context()
        while self.task is not None:
            function, args = self.task
            self.task = None
            function(*args)
            del function, args  # nothing that a call left behind stays alive here
            if pool._closed:
                break
            pool._free.append(self)
            if pool._closed:
                break
            self.parker.park(pool._idle)
            if self.task is None:
                self._leave()
        pool._all.discard(self)

    def _leave(self) -> None:
        """Leave the pool after idling, unless a task is on its way: then wait for it."""
        try:
            self.pool._free.remove(self)
        except ValueError:
            if not self.pool._closed:
                self.parker.park()


class EventLoop:
    """The asyncio loop of a process, for remote functions that are ``async def``. Starts when first needed."""

    def __init__(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="farcall-asyncio", daemon=True)
        self._thread.start()

    def start(
        self, call: Call, coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run a coroutine; ``done`` gets its value or its error on a thread of the node."""
        context = contextvars.copy_context()

        def finished(task: Any) -> None:
            error = KeyboardInterrupt() if task.cancelled() else task.exception()
            call.node.pool.run(done, None if error else task.result(), error)

        def begin() -> None:
            call.task = task = self.loop.create_task(coroutine, context=context)
            task.add_done_callback(finished)
            if call.cancelled:
                task.cancel()

        self.loop.call_soon_threadsafe(begin)

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self.loop.close()


def on_interrupt_signal(call: Call | None) -> None:
    """Handle SIGINT on the main thread of a worker: it is for the call that runs there, or for nobody."""
    if call is not None and call.cancelled and call.running and not (call.shielded or call.delivered):
        call.delivered = True
        raise KeyboardInterrupt
