"""How busy this process is: an operation that any process may ask of any other."""

import os
import time
from typing import TYPE_CHECKING

from .prompt import Asker

if TYPE_CHECKING:
    from .node import Node


class Load:
    """How many processors this process has used, since it was asked last or began."""

    def __init__(self) -> None:
        self._asked = time.monotonic(), time.process_time()

    def processors(self) -> float:
        """Return 0.5 if one was used half of the time."""
        (before, used_before), (now, used) = self._asked, (time.monotonic(), time.process_time())
        self._asked = now, used
        return (used - used_before) / max(now - before, 1e-6)


def measure(node: "Node", asker: Asker) -> None:
    """Answer with the calls in flight here, the processors used, and the bytes of memory; an operation."""
    calls = sum(len(link.running) for link in list(node.reader.links)) + len(node.own_calls)
    asker.finish((calls, node.callee.load.processors(), _resident()), None)


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
