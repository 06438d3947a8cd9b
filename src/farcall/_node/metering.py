"""Where the time of a call goes that is made in a ``timed`` block: both ends of it.

``current_meter`` is what counts while a block is on, and None otherwise; whoever could count something asks that
first. A call that is counted has the flag TIMED, and its answer ends with four durations, measured where it ran. Only
durations cross: the clocks of two hosts differ.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar
from struct import Struct
from typing import TYPE_CHECKING, Any, Protocol

from .._types import CallId, ProcessId
from .._wire import messages
from .._wire.compiled.counting import compilations
from .._wire.frames import REFERENCE, Frame
from .._wire.messages import ERROR, WANT_NOTHING
from .._wire.pickles import Payload
from .current import shielded

if TYPE_CHECKING:
    from .link import Link

_SPENT = Struct("<dddd")  # queue, compilation, run, answer

_clock = time.perf_counter


class Meter(Protocol):
    """A block that counts. Any thread; answers may come when it has ended."""

    outer: "Meter | None"
    """The block around it, which counts the same."""

    def count_sent(self, call: "TimedCall | None", size: int | None) -> None:
        """Count a call, and the message that carries it; or a message that is not a call's; or a call without one."""

    def count_ended(self, call: "TimedCall | None", size: int | None) -> None:
        """Count what became of a call, and its answer; or an answer that is not a call's; or an end without one."""


current_meter: "ContextVar[Meter | None]" = ContextVar("farcall_meter", default=None)


class Stopwatch:
    """The times of a call in the process that runs it: it arrives, is taken up, begins, ends, is answered."""

    __slots__ = ("_arrived", "_began", "_compiled", "_ended", "call", "compilation", "queue")

    def __init__(self, call: "TimedCall | None" = None) -> None:
        self.call = call  # of this process to itself
        self.queue = self.compilation = 0.0
        self._began = self._ended = self._compiled = 0.0
        self._arrived = _clock()

    def take_up(self) -> None:
        """Take note that a thread has the call; it is unpickled next."""
        self.queue = _clock() - self._arrived

    def wait(self, began: float) -> None:
        """Take note that the call has waited for another one to begin, until now."""
        self.queue += _clock() - began

    def begin(self) -> None:
        """Take note that the user's code begins. Its thread."""
        self._compiled = compiled_here()[1]
        self._began = _clock()

    def end(self) -> None:
        """Take note that the user's code has ended, or has failed to begin.

        Its thread; once more, and on any thread, when the coroutine that it made has ended.
        """
        if not self._ended and self._began:
            self.compilation = compiled_here()[1] - self._compiled
        self._ended = _clock()
        self._began = self._began or self._ended

    @property
    def run(self) -> float:
        """Seconds of the user's code, without those in the compiler."""
        return self._ended - self._began - self.compilation

    def append_to(self, payload: Payload) -> Payload:
        """Return a pickled answer with the times at its end; pickling it was the last of them."""
        if not self._ended:
            self.end()  # it has not even been taken up
        times = _SPENT.pack(self.queue, self.compilation, self.run, _clock() - self._ended)
        return payload._replace(body=payload.body + times)

    def report(self, state: str) -> None:
        """Hand the times of a call of this process to itself over."""
        assert self.call is not None
        self.call.end_here(self, state)


class TimedCall:
    """A call that a ``timed`` block made, and where its time went.

    ``seconds`` go by from the call until its answer is here, and are the sum of five parts. ``queue``: it waited, for
    a free worker of a pool, or over there for a thread and for calls that must begin before it. ``transfer``: both
    messages on their way, arguments being pickled and unpickled. ``compilation``: Numba compiled, on the thread of the
    call. ``run``: the rest of its function. ``answer``: its value was pickled.

    ``bytes_out`` and ``bytes_in`` are those of the pickles and of the arrays beside them. ``state`` is "pending",
    "done", "failed" (it raised), "cancelled", "lost" (its process ended) or "sent" (no answer comes).
    """

    __slots__ = (
        "_began",
        "_meter",
        "_splits",
        "answer",
        "bytes_in",
        "bytes_out",
        "compilation",
        "function",
        "queue",
        "run",
        "seconds",
        "state",
        "transfer",
        "where",
    )

    def __init__(self, meter: Meter, function: Callable[..., Any], where: ProcessId) -> None:
        self._began = _clock()
        self._meter = meter
        self._splits = True
        self.function = _name_of(function)
        self.where = where
        self.seconds = self.queue = self.transfer = self.compilation = self.run = self.answer = 0.0
        self.bytes_out = self.bytes_in = 0
        self.state = "pending"

    def __repr__(self) -> str:
        return f"<{self.function} on {self.where}: {self.state}, {self.seconds:.6f} s>"

    def has_waited_since(self, began: float) -> None:
        """Take note that the call was wanted earlier and had to wait for a worker."""
        self.queue = self._began - began
        self._began = began

    # The caller's thread

    def go(self, link: "Link", number: CallId, size: int, want: int) -> int:
        """Count a call that is about to be sent, and return the flag that asks for its times.

        Operations, which farcall sends on behalf of channels, count as messages.
        """
        self.bytes_out = size
        self._splits = not want & messages.PROMPT
        _count_sent(self._meter, self if self._splits else None, size)
        if want & messages.WANTS == WANT_NOTHING:
            self.give_up("sent")
            return 0
        link.timed[number] = self
        return messages.TIMED if self._splits else 0

    def stay(self) -> Stopwatch:
        """Count a call of this process to itself, and return its watch."""
        _count_sent(self._meter, self, None)
        return Stopwatch(self)

    # The thread that reads the answer, or that knows that none will come

    def settle(self, frame: Frame) -> Frame:
        """Take the times off an answer, and return the rest of it."""
        kind, flags, target, number, body, attachments, buffers = frame
        size = len(body)
        if self._splits and size >= _SPENT.size:
            size -= _SPENT.size
            queue, self.compilation, self.run, self.answer = _SPENT.unpack_from(body, size)
            self.queue += queue
            rest = body[:size] if type(body) is bytes else memoryview(body)[:size]
            frame = Frame(kind, flags, target, number, rest, attachments, buffers)
        for what, _, length, _ in attachments:
            if what != REFERENCE:
                size += length
        self.bytes_in = size
        self._end("failed" if target == ERROR else "done", size)
        return frame

    def give_up(self, state: str) -> None:
        """Take note that no answer will come."""
        self._end(state, None)

    def end_here(self, watch: Stopwatch, state: str) -> None:
        """Take the times of a call of this process to itself."""
        self.queue, self.compilation, self.run = self.queue + watch.queue, watch.compilation, watch.run
        self._end(state, None)

    def _end(self, state: str, size: int | None) -> None:
        self.state = state
        self.seconds = _clock() - self._began
        self.transfer = max(0.0, self.seconds - self.queue - self.compilation - self.run - self.answer)
        meter: Meter | None = self._meter
        while meter is not None:
            meter.count_ended(self if self._splits else None, size)
            meter = meter.outer


def _name_of(function: Any) -> str:
    name = str(getattr(function, "__qualname__", None) or type(function).__qualname__).rpartition("<locals>.")[2]
    ours = str(getattr(function, "__module__", "")).startswith("farcall.")
    return f"farcall: {name}" if ours else name


def compiled_here() -> tuple[int, float]:
    """Return how many specialisations this thread has compiled so far, and the seconds that it took."""
    return compilations.of_this_thread()


def count_message(size: int) -> None:
    """Count a message that goes out beside a call, if a block is on."""
    _count_sent(current_meter.get(), None, size)


def _count_sent(meter: Meter | None, call: TimedCall | None, size: int | None) -> None:
    while meter is not None:
        meter.count_sent(call, size)
        meter = meter.outer


def run_metered(meter: Meter, pid: ProcessId, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run on this thread a call of this process to itself."""
    call = TimedCall(meter, function, pid)
    with shielded():
        watch = call.stay()
        watch.begin()
    state = "failed"
    try:
        value = function(*args, **kwargs)
        state = "done"
        return value
    finally:
        with shielded():
            watch.end()
            watch.report(state)
