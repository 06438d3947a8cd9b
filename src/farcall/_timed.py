"""timed: where the time of a block went, here and on the workers."""

import functools
import gc
import inspect
import sys
import threading
import time
from collections.abc import Callable
from itertools import accumulate, count
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, TypeVar, overload

from ._remote.calls import myid
from ._remote.metered import Meter, TimedCall, TimedCalls, begin_counting, compiled_here, end_counting
from ._types import P, ProcessId, R

F = TypeVar("F", bound=Callable[..., Any])

_MOST_CALLS = 10_000  # that are kept one by one
_NO_FUNCTION: Any = object()


class _Clocks(NamedTuple):
    """What the clocks show as a block begins."""

    compilations: int
    compilation: float
    gc: float
    cpu: float
    wall: float


class Timed:
    """A ``with`` block, or each call of a function, whose time is taken: see ``timed``.

    It counts what its own thread does (in a coroutine: its task), and the calls that this makes: those of blocks
    inside it, of maps, and those that wait for a worker of a pool too; not those of threads that it starts.
    """

    def __init__(self, name: str = "", *, quiet: bool = False) -> None:
        self.seconds = 0.0
        """How long the block took."""
        self.cpu = 0.0
        """The processor time, in seconds, that all threads of this process took meanwhile."""
        self.compilation = 0.0
        """The seconds that this thread spent in Numba's compiler."""
        self.compilations = 0
        """How many specialisations it compiled."""
        self.gc = 0.0
        """The seconds of garbage collection, which halts every thread."""
        self.calls = 0
        """How many calls it made, to other processes and to this one; those of ``fetch`` and of maps too."""
        self.messages_out = self.messages_in = 0
        """How many messages that took: functions, calls and answers; and what channels said."""
        self.bytes_out = self.bytes_in = 0
        """The bytes of the pickles in them and of the arrays beside these, whichever way they went."""
        self.remote: list[TimedCall] = []
        """Where the time of each call went, of 10,000 at most; ``totals`` has all. What comes later is added."""
        self.outer: Meter | None = None
        self._name = name
        self._quiet = quiet
        self._state = "not begun"
        self._error = ""
        self._started = _Clocks(0, 0.0, 0.0, 0.0, 0.0)
        self._totals: dict[tuple[str, ProcessId], TimedCalls] = {}
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside

    @property
    def totals(self) -> list[TimedCalls]:
        """Where the time of the calls went: sums for each function and process."""
        return list(self._totals.values())

    def __repr__(self) -> str:
        return f"<Timed: {_line(self) if self._state == 'ended' else self._state}>"

    def __str__(self) -> str:
        """Return the line that is printed, and a table of the calls."""
        return "\n".join([_line(self), *_table(self.totals)])

    def __call__(self, f: F) -> F:
        """Return a function that does as ``f`` and prints where the time of each call of it went."""
        name, quiet = getattr(f, "__qualname__", type(f).__qualname__).rpartition("<locals>.")[2], self._quiet
        if inspect.iscoroutinefunction(f):

            @functools.wraps(f)
            async def wait(*args: Any, **kwargs: Any) -> Any:
                with Timed(name, quiet=quiet):
                    return await f(*args, **kwargs)

            return wait  # type: ignore[return-value]

        @functools.wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            with Timed(name, quiet=quiet):
                return f(*args, **kwargs)

        return call  # type: ignore[return-value]

    def __enter__(self) -> "Timed":
        if self._state != "not begun":
            raise RuntimeError("a Timed is for one block: write timed() again")
        self._state = "running"
        self.outer = begin_counting(self)
        self._started = _Clocks(*compiled_here(), _collector.seconds(), time.process_time(), time.perf_counter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._started
        self.seconds = time.perf_counter() - started.wall
        end_counting(self.outer)
        self.cpu = time.process_time() - started.cpu
        self.gc = _collector.seconds() - started.gc
        compilations, compilation = compiled_here()
        self.compilations = compilations - started.compilations
        self.compilation = compilation - started.compilation
        self._error = kind.__name__ if kind is not None else ""
        self._state = "ended"
        if not self._quiet and sys.stdout is not None:
            sys.stdout.write(_line(self) + "\n")  # one write: the line of a worker might come between two

    # What the node calls: see ``Meter``

    def count_sent(self, call: TimedCall | None, size: int | None) -> None:
        with self._lock:
            if size is not None:
                self.messages_out += 1
                self.bytes_out += size
            if call is not None:
                self.calls += 1
                self._row(call).calls += 1
                if len(self.remote) < _MOST_CALLS:
                    self.remote.append(call)

    def count_ended(self, call: TimedCall | None, size: int | None) -> None:
        with self._lock:
            if size is not None:
                self.messages_in += 1
                self.bytes_in += size
            if call is not None:
                self._row(call).add(call)

    def _row(self, call: TimedCall) -> TimedCalls:
        key = call.function, call.where
        row = self._totals.get(key)
        if row is None:
            row = self._totals[key] = TimedCalls(*key)
        return row


@overload
def timed(*, quiet: bool = False) -> Timed: ...
@overload
def timed(f: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
@overload
def timed(f: Callable[P, R], /) -> Callable[P, R]: ...
def timed(f: Any = _NO_FUNCTION, /, *args: Any, **kwargs: Any) -> Any:
    """Print where the time went: of a block, of a call, or of each call of a function. Julia: ``@time``.

    ``with timed() as t:`` prints a line when the block ends, also by an exception; ``t`` has the numbers, and
    ``print(t)`` adds a table of the calls. ``timed(f, *args, **kwargs)`` is ``f(*args, **kwargs)``, and prints the
    line. ``@timed``, or ``@timed()``, has each call of a function print one, with its name.

    The line has the seconds that went by, the parts of them in Numba's compiler and in garbage collection, how many
    calls were made, and the bytes that went out and in. Compilation on workers is that of the worker that compiled
    longest. Parts that are nothing are left out. ``timed(quiet=True)`` prints nothing.

    ``timed(f)`` calls ``f``, except where ``f`` is being defined: there, and only there, it is a decorator. To
    decorate something else, or where a type checker shall know it of a function without arguments, write
    ``timed()(f)`` or ``@timed()``.

    >>> from farcall import remotecall_fetch, timed
    >>> with timed(quiet=True) as t:
    ...     remotecall_fetch(2, pow, 2, 10)
    1024
    >>> t.calls, [call.function for call in t.remote], t.seconds >= t.remote[0].seconds
    (1, ['pow'], True)
    """
    if f is _NO_FUNCTION:
        if kwargs.keys() - {"quiet"}:
            raise TypeError("timed() has one option, quiet; a function comes first: timed(f, *args, **kwargs)")
        return Timed(**kwargs)
    if not callable(f):
        raise TypeError(f"timed takes a function and its arguments, not {type(f).__name__}")
    if not args and not kwargs and _is_being_defined(f, sys._getframe(1)):
        return Timed()(f)
    with Timed():
        return f(*args, **kwargs)


def _is_being_defined(function: Any, caller: FrameType) -> bool:
    """Return whether the caller is at the lines of the very definition of a function, so that it applies a decorator.

    The code of a function is a constant of the code that defines it; since Python 3.12 one of a constant, if the
    function has type parameters. Other decorators may have wrapped it in between.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, CodeType) or code.co_name == "<lambda>":
        return False
    makers = [caller.f_code, *(each for each in caller.f_code.co_consts if isinstance(each, CodeType))]
    last = max(line for _, _, line in code.co_lines() if line is not None)
    return code.co_firstlineno <= caller.f_lineno <= last and any(code in each.co_consts for each in makers)


# Garbage collection


class _Collector:
    """How long garbage collection has halted this process, since somebody first asked.

    Only C runs when a collection begins or ends. An interrupt that comes meanwhile is raised by the next bytecode, and
    in a callback of the collector it would be lost.
    """

    def __init__(self) -> None:
        self._latest: list[tuple[float, int]] = []

    def seconds(self) -> float:
        """Return the total until now."""
        if not self._latest:
            self._listen()
        total, moments = self._latest[0]
        return time.perf_counter() - total if moments % 2 else total  # odd: a collection is under way

    def _listen(self) -> None:
        """Keep the total and the number of moments at which a collection began or ended.

        From the total s, a moment m makes m - s. So a beginning and an end make of s their difference and s. The
        collector calls ``getattr(probe, "start", info)``, and with "stop" at the end.
        """
        totals = zip(accumulate(iter(time.perf_counter, None), float.__rsub__, initial=0.0), count(), strict=False)
        keep = map(functools.partial(self._latest.__setitem__, 0), totals)
        moment: Any = property(functools.partial(next, keep))
        probe = type("_Probe", (), {"start": moment, "stop": moment})()
        self._latest.append((0.0, 0))
        next(keep)
        gc.callbacks.append(functools.partial(getattr, probe))


_collector = _Collector()  # of this process: there is one garbage collector, whatever nodes there are


# Text


def _line(timed: Timed) -> str:
    """Return what happened in a line, like Julia's ``@time``."""
    parts = [
        _share(timed.compilation, timed.seconds, "compilation"),
        _share(_compilation_on_workers(timed), timed.seconds, "compilation on workers"),
        _share(timed.gc, timed.seconds, "garbage collection"),
        f"{timed.calls} call{'s' * (timed.calls != 1)}" if timed.calls else "",
        f"{_size(timed.bytes_out)} out" if timed.bytes_out else "",
        f"{_size(timed.bytes_in)} in" if timed.bytes_in else "",
    ]
    details = ", ".join(each for each in parts if each)
    name = f"{timed._name}: " if timed._name else ""
    until = f" until {timed._error}" if timed._error else ""
    return f"{name}{_duration(timed.seconds)}{until}{f' ({details})' * bool(details)}"


def _compilation_on_workers(timed: Timed) -> float:
    """Return the seconds of the worker that compiled longest; on each, one thread at a time does."""
    seconds: dict[ProcessId, float] = {}
    for row in timed.totals:
        if row.where == myid():
            continue
        seconds[row.where] = seconds.get(row.where, 0.0) + row.compilation
    return max(seconds.values(), default=0.0)


def _share(seconds: float, whole: float, what: str) -> str:
    percent = min(100, round(100 * seconds / whole)) if whole > 0 else 0
    return f"{percent}% {what}" if percent else ""


def _duration(seconds: float) -> str:
    """Return a time in the unit that suits it: 12.345 s, 0.412 s, 41.2 ms, 4.12 us."""
    if seconds >= 0.09995:
        return f"{seconds:.3f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 999.5e-6 else f"{seconds * 1e6:.3g} us"


def _size(size: float) -> str:
    """Return a number of bytes: 412 B, 1.2 kB (of 1000 B), 80.0 MB."""
    if size < 1000:
        return f"{size} B"
    size, unit = size / 1000, "kB"
    while size >= 999.95 and unit != "GB":
        size, unit = size / 1000, {"kB": "MB", "MB": "GB"}[unit]
    return f"{size:.1f} {unit}"


_PARTS = ("queue", "transfer", "compilation", "run", "answer")


def _table(rows: list[TimedCalls]) -> list[str]:
    """Return the lines of a table, a row for each function and process; nothing without calls."""
    if not rows:
        return []
    cells = [["function", "process", "calls", "total", *_PARTS, ""]]
    for row in rows:
        seconds: list[float] = [getattr(row, each) for each in ("seconds", *_PARTS)]
        parts = [_duration(each) if each else "-" for each in seconds]
        cells.append([row.function, str(row.where), str(row.calls), *parts, _exceptions(row)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for first, *others, last in cells:
        numbers = [each.rjust(width) for each, width in zip(others, widths[1:-1], strict=True)]
        lines.append("  ".join(["", first.ljust(widths[0]), *numbers, last]).rstrip())
    return lines


def _exceptions(row: TimedCalls) -> str:
    """Say of which calls there is no value: 2 pending, 1 lost."""
    states = {"pending": row.pending, **row.states}
    return ", ".join(f"{number} {state}" for state, number in states.items() if number and state != "done")
