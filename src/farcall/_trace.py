"""trace: what every process did, for Perfetto or Chrome."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ._errors import ProcessExited
from ._node.current import current_node, find_node
from ._node.node import Node
from ._node.tracing import Event, Tracer
from ._remote.calls import run_on
from ._types import ProcessId

_CLOCK_ROUNDS = 5


class trace:
    """A ``with`` block whose calls, messages, bytes and waits, on every process, go to a file.

    The file is in Chrome's trace format: open it in https://ui.perfetto.dev or chrome://tracing. Each process is a
    row with its threads; arrows lead from where a call was sent to where it ran. Workers that join in the block are
    traced too; one that dies takes its events along. Recording costs about a microsecond per event, and nothing
    while no trace is on. Only process 1 may trace, one trace at a time.

    >>> import farcall as fc, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "run.json")
    >>> with fc.trace(path):
    ...     fc.fetch(fc.spawnat(2, abs, -1))
    1
    >>> os.path.getsize(path) > 0
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._node: Node | None = None
        self._start = 0.0

    def __enter__(self) -> "trace":
        node = find_node()
        if node is None or node.pid != 1:
            raise RuntimeError("trace works on process 1 once it has workers: call addprocs(n) first")
        if node.trace is not None:
            raise RuntimeError("a trace is on already")
        self._path.touch()  # a path that cannot be written fails here, not after the work
        self._node = node
        self._start = time.perf_counter()
        node.journal.append((start_tracing,))
        run_on(node, node.peers.pids(), (start_tracing,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        node = self._node
        assert node is not None
        node.journal.remove((start_tracing,))
        rows: list[dict[str, Any]] = []
        for pid in node.peers.pids():
            try:
                rows += self._collect(node, pid)
            except ProcessExited:
                continue
        self._path.write_text(json.dumps({"traceEvents": rows, "displayTimeUnit": "ns"}))

    def _collect(self, node: Node, pid: ProcessId) -> list[dict[str, Any]]:
        """Return the rows of a process, its times in microseconds since the block began on this one."""
        shift = clock_difference(node, pid) + self._start
        name = "master" if pid == 1 else f"worker {pid}"
        rows: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}]
        for event in node.ask(pid, stop_tracing):
            rows += _rows(Event(*event), pid, shift)
        return rows


def _rows(event: Event, pid: ProcessId, shift: float) -> list[dict[str, Any]]:
    """Return an event in Chrome's format; a call that is sent and runs is also an end of an arrow."""
    at = {"pid": pid, "tid": event.thread, "ts": (event.start - shift) * 1e6}
    row = {"name": event.name, "cat": event.kind, "args": event.details, **at}
    if event.duration is None:
        row.update(ph="i", s="t")
    else:
        row.update(ph="X", dur=event.duration * 1e6)
    flow = {"name": "call", "cat": "call", "id": f"{event.details.get('caller')}:{event.details.get('call')}", **at}
    if event.kind == "run":
        return [row, {**flow, "ph": "f", "bp": "e"}]
    if event.kind == "send" and event.name.startswith("call"):
        return [row, {**flow, "ph": "s"}]
    return [row]


def clock_difference(node: Node, pid: ProcessId) -> float:
    """Return how far a process's clock is ahead of this one's, in seconds; 0 if it cannot be told from 0."""
    if pid == node.pid:
        return 0.0
    best = (float("inf"), 0.0)
    for _ in range(_CLOCK_ROUNDS):
        before = time.perf_counter()
        there = node.ask(pid, time.perf_counter)
        after = time.perf_counter()
        best = min(best, (after - before, there - (before + after) / 2))
    took, difference = best
    return difference if abs(difference) > took else 0.0


def start_tracing() -> None:
    """Begin to record on this process."""
    node = current_node()
    node.trace = node.reader.trace = Tracer()


def stop_tracing() -> list[tuple[Any, ...]]:
    """Record no more on this process, and return what was recorded."""
    node = current_node()
    tracer, node.trace, node.reader.trace = node.trace, None, None
    return [tuple(event) for event in tracer.events] if tracer is not None else []
