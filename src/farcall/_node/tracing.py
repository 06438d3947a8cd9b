"""What a process did while it was traced: calls that ran, messages, waits.

``Node.trace`` is a Tracer while a trace is on and None otherwise, and every place that records asks that first.
Times are of ``time.perf_counter``, which the processes of one Linux host share.
"""

import threading
import time
from typing import Any, NamedTuple

from .._types import CallId, ProcessId


class Event(NamedTuple):
    """Something that began at a time and lasted, or (``duration`` None) just happened; in seconds."""

    kind: str  # "run", "wait", "send", "receive"
    name: str
    start: float
    duration: float | None
    thread: int
    details: dict[str, Any]


class Tracer:
    """The events of one process. Any thread; an append is atomic."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def ran(self, name: str, caller: ProcessId, number: CallId, start: float, end: float) -> None:
        """Record that a call of a process ran here."""
        self._add("run", name, start, end - start, caller=caller, call=number)

    def waited(self, peer: ProcessId | None, start: float, end: float) -> None:
        """Record that a thread waited for an answer, of another process or (None) of this one."""
        self._add("wait", f"wait for {peer or 'this process'}", start, end - start, peer=peer)

    def sent(self, what: str, peer: ProcessId, caller: ProcessId, number: CallId, size: int) -> None:
        """Record that a message left: a call or an answer, of so many bytes."""
        self._add(
            "send", f"{what} to {peer}", time.perf_counter(), None, peer=peer, caller=caller, call=number, bytes=size
        )

    def _add(self, kind: str, name: str, start: float, duration: float | None, **details: Any) -> None:
        self.events.append(Event(kind, name, start, duration, threading.get_native_id(), details))
