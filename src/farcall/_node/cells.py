"""Cells of a notebook: what a call prints appears in the cell that made the call, whichever cell runs by then.

The master gives each cell a number, from 1 on. A call carries that of the cell in which it was made, and the calls
that it makes carry it on. Without a notebook no call carries any.
"""

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .._types import ProcessId
from .._wire import messages
from .._wire.frames import Body
from .._wire.pickles import Payload
from .current import current_call

if TYPE_CHECKING:
    from .executor import Call

_waiting: "ContextVar[int]" = ContextVar("farcall_cell", default=0)  # of a call that is begun later than it was made


def cell_of_call() -> int:
    """Return the cell that caused the call whose code this is, 0 if there is none."""
    call = current_call.get()
    return call.cell if call is not None else 0


class Cells:
    """How one process tells for which cell it does what it does."""

    def __init__(self) -> None:
        self.are_used = False
        self.find: Callable[[], int] = cell_of_call  # for which cell this thread works
        self.enter: Callable[[int], None] = lambda cell: None  # what this thread prints next belongs to a cell
        self.catch_up: Callable[[], None] = lambda: None  # what workers have printed until now is shown

    def begin(self, cell: int) -> None:
        """Have what this thread prints next belong to a cell. Never raises: its output may be closed."""
        with contextlib.suppress(Exception):
            self.enter(cell)

    def current(self) -> int:
        """Return the cell for which this thread makes a call now."""
        return _waiting.get() or self.find()

    def mark(self, flags: int, payload: Payload) -> tuple[int, Payload]:
        """Return the flags and the payload of a call with the cell in which it is made. Operations print nothing."""
        cell = 0 if flags & messages.PROMPT else self.current()
        if not cell:
            return flags, payload
        return flags | messages.CELL, payload._replace(body=payload.body + messages.encode_cell(cell))

    def take(self, call: "Call", body: Body) -> None:
        """Take note of the cell that caused a call, as the end of its message says."""
        call.cell = messages.decode_cell(body)
        self.are_used = True

    def kept(self, begin: Callable[[ProcessId], None]) -> Callable[[ProcessId], None]:
        """Return what begins a call later, on whichever thread, for the cell for which this thread works now."""
        cell = self.current() if self.are_used else 0
        if not cell:
            return begin

        def begin_for_cell(pid: ProcessId) -> None:
            token = _waiting.set(cell)
            try:
                begin(pid)
            finally:
                _waiting.reset(token)

        return begin_for_cell
