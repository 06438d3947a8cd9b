"""The worker's side of a map: a site, made once per map on each worker, which runs its batches one after another.

Two batches are usually there, each with a call of its own that waits. The thread that runs them goes on from one to
the next, and gives what each came to to whichever call has waited longest. As soon as one of the calls is on the main
thread that goes on, for there an interrupt also ends what sleeps in C.

Batches run under a call of their own (``_run_interruptibly``), which ends when an item takes too long, or when the
map is cancelled.
"""

import functools
import io
import itertools
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

import cloudpickle

from .._errors import SerializationError
from .._node.answers import encode_error
from .._node.current import current_call, current_node, running_call, shielded
from .._node.executor import Call, ThreadPool, at_home
from .._node.main_thread import on_main_thread
from .._node.slots import Parker, Slot
from .._node.tracing import Event
from .._remote.future import Future
from .._remote.owner import value_of
from .._types import RefId
from .._wire import pickles
from .._wire.messages import WANT_NOTHING

_clock = time.perf_counter

Outcome = tuple[int, int, Any, dict[int, bytes], float]
"""A batch's number, how many of its items were begun, their values (a list, or its pickle), the errors of those that
failed by their place in the batch, and the seconds that it took."""


@dataclass(frozen=True)
class Task:
    """What to do with each item of a map."""

    spread: bool = False
    """An item is a tuple of arguments."""

    keep_going: bool = False
    """The rest of a batch is done although an item has failed."""

    timeout: float | None = None
    seed: Any = None

    fold: Callable[[Iterable[Any]], Any] | None = None
    """What makes one value of a batch's values; its only value is then that."""


class Site:
    """One map on one worker. Any thread."""

    def __init__(self, function: Callable[..., Any], task: Task) -> None:
        self._node = current_node()
        self._function = at_home(function)
        if iscoroutinefunction(function):
            self._function = functools.partial(_run_coroutine, function)
        if task.fold is not None:
            self._function = functools.partial(_call_strictly, self._function)
        self._task = task
        self._cell = self._node.cells.current()
        self._name = getattr(function, "__qualname__", type(function).__qualname__)
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, int, list[Any]]] = deque()  # number, index of the first item, items
        self._waiting: deque[Slot] = deque()  # calls, one for each batch that none of them runs
        self._on_main: Slot | None = None  # a call that waits on the main thread, or did
        self._busy = False  # a thread runs batches
        self._number = 0  # of the batch that runs
        self._items: list[Any] = []  # of the batch that runs; cutting it short gives items back
        self._iterator: Iterator[Any] = iter(())  # over them
        self._running: Call | None = None  # the user's code
        self._latest: Call | None = None  # the user's code that runs, or ran last
        self._abandoned = False
        self._watch = _Watch(task.timeout) if task.timeout is not None else None

    def work(self, number: int, start: int, items: Sequence[Any]) -> Outcome:
        """Run a batch after those that are here already; return what some batch of this map came to."""
        with shielded() as call:
            with self._lock:
                if self._abandoned:
                    raise KeyboardInterrupt
                self._queue.append((number, start, list(items)))
                slot = self._wait_in_line() if self._busy else None
                self._busy = True
            try:
                outcome = self._await(slot) if slot is not None else None
                return self._work_through(call) if outcome is None else outcome
            except BaseException as error:
                self._abandon(error)
                raise

    def _wait_in_line(self) -> Slot:
        slot = Slot()
        self._waiting.append(slot)
        if on_main_thread() and self._node.reader.leads_on_main:
            self._on_main = slot
        return slot

    def _await(self, slot: Slot) -> Outcome | None:
        """Wait for an outcome, or for the turn to go on with the work (None)."""
        self._node.reader.wait(slot, None)
        outcome: Outcome | None = slot.outcome()
        return outcome

    def _work_through(self, call: Call | None) -> Outcome:
        """Run batches until there are no more, or the main thread can go on; return the last outcome."""
        if self._watch is not None:
            self._watch.start(self._node.pool)
        try:
            while True:
                with self._lock:
                    if not self._queue:
                        raise KeyboardInterrupt  # abandoned: else there is a batch for each call that does not wait
                    batch = self._queue.popleft()
                outcome = self._run(*batch, call)
                with self._lock:
                    heir = self._on_main if self._on_main in self._waiting else None
                    if heir is not None:
                        self._waiting.remove(heir)
                    waiting = self._waiting.popleft() if self._waiting and heir is None else None
                    self._busy = bool(self._queue)
                if waiting is None:
                    break
                waiting.finish(outcome, None)
        finally:
            if self._watch is not None:
                self._watch.stop()
        if heir is not None:
            heir.finish(None, None)
        return outcome

    def _abandon(self, error: BaseException) -> None:
        """Run nothing more: a call of this map was interrupted."""
        with self._lock:
            self._abandoned = True
            self._queue.clear()
            waiting = list(self._waiting)
            self._waiting.clear()
        running = self._running
        if running is not None:
            running.interrupt()
        for each in waiting:
            each.finish(None, error)

    def give_back(self) -> tuple[int, int]:
        """Answer the batches that have not begun as they are, and cut short the one that runs.

        Return its number, and how many items it keeps: it ends with the present one, which may take long.
        """
        answers: list[tuple[Slot, Outcome]] = []
        with self._lock:
            while self._queue and self._waiting:
                number, _, _ = self._queue.pop()
                answers.append((self._waiting.pop(), (number, 0, [], {}, 0.0)))
            items, iterator = self._items, self._iterator
            while items:
                last = items.pop()
                if has_begun(iterator, len(items)):
                    items.append(last)
                    break
            kept = self._number, len(items)
        for slot, outcome in answers:
            slot.finish(outcome, None)
        return kept

    # One batch

    def _run(self, number: int, start: int, items: list[Any], call: Call | None) -> Outcome:
        started = _clock()
        with self._lock:
            self._number, self._items, self._iterator = number, items, iter(items)
        errors: dict[int, bytes] = {}
        results = self._results(start, call)
        consume = self._fold if self._task.fold is not None else self._collect
        done, values = consume(results, errors, call)
        with self._lock:
            self._number, self._items = 0, []
        body = self._encode(values, errors)
        ended = _clock()
        if self._node.trace is not None:
            name = f"{self._name} [{start}:{start + done}]"
            details = {"start": start, "stop": start + done}
            self._node.trace.events.append(
                Event("map", name, started, ended - started, threading.get_native_id(), details)
            )
        return number, done, body, errors, ended - started

    def _results(self, start: int, call: Call | None) -> Iterator[Any]:
        """Return an iterator that calls the function with each item of the batch."""
        function, task = self._function, self._task
        if task.timeout is not None:
            function = functools.partial(self._limited, call, function)
        if task.seed is not None:
            seeded = functools.partial(_call_with_generator, function, task.seed, task.spread)
            return map(seeded, self._iterator, itertools.count(start))
        return itertools.starmap(function, self._iterator) if task.spread else map(function, self._iterator)

    def _collect(self, results: Iterator[Any], errors: dict[int, bytes], call: Call | None) -> tuple[int, list[Any]]:
        """Return how many items were begun, and their values, None for one that failed."""
        values: list[Any] = []
        while (error := self._try(values.extend, results, call)) is not None:
            errors[len(values)] = _encode(error)
            values.append(None)
            if not self._task.keep_going:
                break
        return len(values), values

    def _fold(self, results: Iterator[Any], errors: dict[int, bytes], call: Call | None) -> tuple[int, list[Any]]:
        """Return how many items were begun, and the one value of them all."""
        values: list[Any] = []
        fold = self._task.fold
        assert fold is not None
        error = self._try(lambda results: values.append(fold(results)), results, call)
        if error is None:
            with self._lock:
                return len(self._items), values
        state: Any = self._iterator.__reduce__()
        begun: int = state[2]
        errors[begun - 1] = _encode(error)
        return begun, []

    def _try(self, consume: Callable[[Iterator[Any]], None], results: Iterator[Any], call: Call | None) -> Any:
        """Go on with a batch until an item fails; return its error, None at the end."""
        try:
            if self._watch is not None:
                consume(results)  # each item is under a call of its own
            else:
                self._run_interruptibly(call, consume, results)
        except BaseException as error:
            if self._abandoned or (call is not None and call.cancelled):
                raise KeyboardInterrupt from None
            return error
        return None if has_ended(self._iterator) else StopIteration()  # which ends a ``map`` as if it were complete

    def _limited(self, call: Call | None, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and interrupt it when it has taken too long."""
        watch, limit = self._watch, self._task.timeout
        assert watch is not None
        assert limit is not None
        try:
            return self._run_interruptibly(call, functools.partial(function, **kwargs), *args)
        except KeyboardInterrupt:
            if watch.late is not self._latest:
                raise
            raise TimeoutError(f"the item took longer than {limit:g} s, and was interrupted") from None

    def _run_interruptibly(self, outer: Call | None, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function as a call of its own, which can be interrupted while others of this thread go on."""
        call = self._running = self._latest = Call(self._node, None, 0, WANT_NOTHING)
        call.main, call.cell = on_main_thread(), self._cell
        token = current_call.set(call)
        if outer is not None:
            outer.sleeper = call.interrupt
        try:
            if self._abandoned or (outer is not None and outer.cancelled):
                raise KeyboardInterrupt
            if self._watch is not None:
                self._watch.guard(call)
            return call.run(function, args, {})
        finally:
            self._running = None
            if outer is not None:
                outer.sleeper = None
            current_call.reset(token)

    def _encode(self, values: list[Any], errors: dict[int, bytes]) -> Any:
        """Return the pickle of the values, or, if large arrays or references are among them, the values."""
        try:
            payload = pickles.encode(values)
        except SerializationError:
            for place, value in enumerate(values):
                try:
                    pickles.encode(value)
                except SerializationError as error:
                    errors[place] = _encode(error)
                    values[place] = None
            payload = pickles.encode(values)
        return values if payload.buffers or payload.references else payload.body


class _Watch:
    """Interrupts calls that take too long."""

    def __init__(self, limit: float) -> None:
        self.late: Call | None = None  # the last one that was interrupted
        self._limit = limit
        self._guarded: tuple[Call | None, float] = (None, 0.0)
        self._parker = Parker()
        self._serial = 0

    def guard(self, call: Call) -> None:
        """Give a call its time from now on; the one before it is guarded no more."""
        self._guarded = call, time.monotonic() + self._limit

    def start(self, pool: ThreadPool) -> None:
        """Have a thread interrupt whoever is late, until ``stop``."""
        pool.run(self._run, self._serial)

    def _run(self, serial: int) -> None:
        while serial == self._serial:
            (call, deadline), now = self._guarded, time.monotonic()
            if call is not None and now >= deadline and call is not self.late:
                self.late = call
                call.interrupt()
            self._parker.park(deadline - now if deadline > now else self._limit)

    def stop(self) -> None:
        """Let the thread go."""
        self._serial += 1
        self._guarded = None, 0.0
        self._parker.unpark()


def has_begun(iterator: Iterator[Any], place: int) -> bool:
    """Whether an iterator over a list has given the item at a place."""
    state: Any = iterator.__reduce__()
    return len(state) == 2 or state[2] > place


def has_ended(iterator: Iterator[Any]) -> bool:
    """Whether an iterator over a list has come to its end."""
    return len(iterator.__reduce__()) == 2


def _encode(error: BaseException) -> bytes:
    """Return an error with its traceback and the name of this process, all in one piece."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("farcall."):
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace
    payload = encode_error(error, str(current_node().describe()))
    if not (payload.buffers or payload.references):
        return payload.body
    strings = io.BytesIO(payload.body)
    pickle.load(strings)
    try:
        return payload.body[: strings.tell()] + bytes(cloudpickle.dumps(error))
    except Exception:
        return payload.body[: strings.tell()]  # references cannot travel like this: it arrives as a RemoteError


def _run_coroutine(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a coroutine function on the event loop of this process and wait for it."""
    node, call, slot = current_node(), running_call(), Slot()
    assert call is not None
    node.callee.event_loop().start(call, function(*args, **kwargs), slot.finish)
    node.reader.wait(slot, None)
    return slot.outcome()


def _call_strictly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function whose StopIteration would end a fold as if it were complete."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the function raised StopIteration") from error


def _call_with_generator(function: Callable[..., Any], seed: Any, spread: bool, item: Any, index: int) -> Any:
    """Call a function with an item and with random numbers that depend on the seed and the item's index alone."""
    from numpy.random import PCG64, Generator, SeedSequence

    rng = Generator(PCG64(SeedSequence(seed, spawn_key=(index,))))
    return function(*item, rng=rng) if spread else function(item, rng=rng)


# What the master calls


def make_opener(function: Callable[..., Any]) -> Callable[[Task], Future[Site]]:
    """Return what opens a site for a function. The function is captured, so that it crosses each link once."""

    def open_site(task: Task) -> Future[Site]:
        node = current_node()
        future = Future[Site](node, node.pid)
        future.finish(Site(function, task), None)
        return future

    return open_site


def work(ref: RefId, number: int, start: int, items: Sequence[Any]) -> Outcome:
    """Run a batch on the site of this process that has a name."""
    site: Site = value_of(ref)
    return site.work(number, start, items)


def give_back(ref: RefId) -> tuple[int, int]:
    """Have a site of this process give back what it has not begun."""
    site: Site = value_of(ref)
    return site.give_back()
