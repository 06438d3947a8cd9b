"""Which ``timed`` block counts, also what begins later; and the sums over calls that one has counted."""

import time
from collections.abc import Callable

from .._node.metering import Meter as Meter
from .._node.metering import TimedCall as TimedCall
from .._node.metering import compiled_here as compiled_here
from .._node.metering import current_meter
from .._types import ProcessId


class TimedCalls:
    """The calls of one function on one process: sums over them, each as of a ``TimedCall``.

    ``states`` says how many ended how; those that have not are in none of the other sums but ``calls``.
    """

    def __init__(self, function: str, where: ProcessId) -> None:
        self.function = function
        self.where = where
        self.calls = self.bytes_out = self.bytes_in = 0
        self.seconds = self.queue = self.transfer = self.compilation = self.run = self.answer = 0.0
        self.states: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<{self.calls} x {self.function} on {self.where}: {self.seconds:.6f} s>"

    @property
    def pending(self) -> int:
        """How many have not ended."""
        return self.calls - sum(self.states.values())

    def add(self, call: TimedCall) -> None:
        """Add a call that has ended."""
        self.states[call.state] = self.states.get(call.state, 0) + 1
        self.seconds += call.seconds
        self.queue += call.queue
        self.transfer += call.transfer
        self.compilation += call.compilation
        self.run += call.run
        self.answer += call.answer
        self.bytes_out += call.bytes_out
        self.bytes_in += call.bytes_in


def begin_counting(meter: Meter) -> Meter | None:
    """Have a meter count what this thread, or this task of an event loop, does; return the one that did until now."""
    outer = current_meter.get()
    current_meter.set(meter)
    return outer


def end_counting(outer: Meter | None) -> None:
    """Have the meter count again that did before."""
    current_meter.set(outer)


class _Waiting:
    """A meter for one call that waits for a worker: it counts where it was asked for, and from then on."""

    def __init__(self, outer: Meter) -> None:
        self.outer: Meter | None = outer
        self._began = time.perf_counter()

    def count_sent(self, call: TimedCall | None, size: int | None) -> None:
        if call is not None:
            call.has_waited_since(self._began)

    def count_ended(self, call: TimedCall | None, size: int | None) -> None:
        pass


def counted_from_now(begin: Callable[[ProcessId], None]) -> Callable[[ProcessId], None]:
    """Return what begins a call later, on whichever thread, and has it count in the block that is on now."""
    meter = current_meter.get()
    if meter is None:
        return begin
    waiting = _Waiting(meter)

    def begin_counted(pid: ProcessId) -> None:
        token = current_meter.set(waiting)
        try:
            begin(pid)
        finally:
            current_meter.reset(token)

    return begin_counted
