"""A worker whose process is not its own to end: a rank of ``mpiexec``, which takes one that ends early for a failure.

It is a whole worker, whose main thread serves. When it has left the cluster the process goes on, and is idle.
"""

import threading
from collections.abc import Callable
from typing import Any

from .._types import ProcessId
from .guest_output import take_output
from .worker import make_node, say_last_words, serve


class Rank:
    """A worker that listens from now on; ``on_end`` is called once, when it leaves the cluster.

    What its calls print goes to the master in messages: the other ends of its standard streams are ``mpiexec``'s.
    """

    def __init__(self, told: dict[str, Any], on_end: Callable[[], None]) -> None:
        self._timeout: float = told["timeout"]
        self._on_end = on_end
        self._ending = threading.Lock()
        self._node = make_node(told)
        self._node.on_exit = self._exited
        self._output = take_output(self._node)

    @property
    def address(self) -> str:
        """What the master dials."""
        return self._node.connections.address

    def serve(self) -> None:
        """Serve the master until it says goodbye or is gone; on the main thread."""
        serve(self._node, self._timeout)
        self.end()
        say_last_words()

    def interrupt(self) -> None:
        """Interrupt what runs here and answer nothing more, so that the main thread is free to leave. Any thread."""
        self._node.leaving = True
        self._node.interrupt_all()

    def end(self) -> None:
        """Leave the cluster now, whatever runs here. Any thread; again is no error."""
        if not self._ending.acquire(blocking=False):
            return
        self.interrupt()
        self._output.finish()
        self._on_end()
        self._node.close()

    def _exited(self, pid: ProcessId, reason: str) -> None:
        if pid == 1:
            threading.Thread(target=self.end, name="farcall-end", daemon=True).start()
