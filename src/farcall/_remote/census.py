"""How the processes of a cluster are: asked of all at once, and not waited for long."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from .._errors import ProcessExited
from .._node.load import measure
from .._node.node import Node
from .._node.prompt import operate
from .._node.slots import Slot
from .._types import ProcessId

_PATIENCE = 0.5  # seconds; a process that is stopped, or whose C code holds the interpreter, does not answer


class Member(NamedTuple):
    """How a process is. Where it did not answer the numbers are None."""

    pid: ProcessId
    host: str
    state: str  # "this process", "idle", "busy", "no answer", or why it is gone
    calls: int | None = None  # in flight there
    processors: float | None = None  # used since it was asked last; 0.5 is one, half of the time
    memory: int | None = None  # bytes


def take_census(node: Node, pids: Iterable[ProcessId]) -> list[Member]:
    """Return how processes are, in one round. Blocks for half a second at most."""
    deadline = time.monotonic() + _PATIENCE
    asked = {pid: Slot() for pid in pids}
    for pid, slot in asked.items():
        node.pool.run(_ask, node, pid, slot)  # where a connection is full, to send may wait
    return [_await(node, pid, slot, deadline) for pid, slot in asked.items()]


def _ask(node: Node, pid: ProcessId, slot: Slot) -> None:
    try:
        link, _ = operate(node, pid, slot, measure)
        if link is not None:
            node.reader.attend(link)
    except Exception as error:
        slot.finish(None, error)


def _await(node: Node, pid: ProcessId, slot: Slot, deadline: float) -> Member:
    host = node.peers.host(pid)
    try:
        node.reader.wait(slot, None, deadline)
        calls, processors, memory = node.open_slot(slot)
    except TimeoutError:
        return Member(pid, host, "no answer")
    except ProcessExited as error:
        return Member(pid, host, f"gone: {error.reason}")
    state = "this process" if pid == node.pid else "busy" if calls else "idle"
    return Member(pid, host, state, calls, processors, memory)
