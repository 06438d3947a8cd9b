"""Iterating over a channel so that an item whose consumer fails goes to another one."""

import contextlib
import dis
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Generic, TypeVar

from .._errors import ChannelClosed
from .._node.current import running_call, shielded
from .account import Account

T = TypeVar("T")

# What an interpreter is at when a loop drops its iterator because of ``break`` or ``return``. While an exception
# unwinds it is at the instruction that raised, and none of these raises.
_NAMES = "POP_TOP POP_ITER RETURN_VALUE RETURN_CONST STORE_FAST"
_LEAVING = frozenset(dis.opmap[name] for name in _NAMES.split() if name in dis.opmap)


class Leases(Generic[T]):
    """The items of a channel, each lent until the next is asked for: see ``RemoteChannel.lease``."""

    deliveries = 0
    """How often the current item has been handed out, this time included."""

    def __init__(self, account: Account, timeout: float | None) -> None:
        self._account = account
        self._timeout = timeout
        self._loan = 0
        self._consumer = 0  # the frame that asks, by its id: a reference would keep this iterator alive

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._consumer = id(sys._getframe(1))
        try:
            with shielded():
                done, self._loan = self._loan, 0
                item, self.deliveries, self._loan = self._account.lease(done, self._timeout)
        except ChannelClosed:
            raise StopIteration from None
        except BaseException:
            self._end(done=False)  # an interrupt, and perhaps an item that nobody has seen
            raise
        return item  # type: ignore[no-any-return]

    def __enter__(self) -> "Leases[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(done=error is None)

    def __repr__(self) -> str:
        return f"<Leases: {'an item' if self._loan else 'nothing'} in hand>"

    def _end(self, done: bool) -> None:
        with shielded():
            loan, self._loan = self._loan, 0
            if loan:
                self._account.end_lease(loan, done)

    def __del__(self) -> None:
        if not self._loan:
            return
        frame: FrameType | None = None
        with contextlib.suppress(ValueError):  # no caller: the interpreter is ending
            frame = sys._getframe(1)
        try:
            if frame is not None and id(frame) == self._consumer:
                self._end(done=_is_leaving(frame))  # the loop drops it, so nothing of ours is under way here
        except KeyboardInterrupt:  # it would be ignored here
            call = running_call()
            if call is not None:
                call.interrupt_later()
        if self._loan:
            self._account.end_lease_later(self._loan)


def _is_leaving(frame: FrameType) -> bool:
    """Return whether a frame drops its loop's iterator of its own will, not because an exception unwinds it."""
    return frame.f_code.co_code[frame.f_lasti] in _LEAVING
