"""A node in a process that belongs to somebody else, such as a worker of Dask.

It leaves its host alone: the process, its main thread, its signals, ``__main__``, its standard output and its event
loop stay as they are, and when the master is gone nothing is left of the node but threads that run code which cannot
be interrupted. There may be several, of one master or of several, and they do not see each other.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .._config import read_config
from .._transport.addresses import Dialler
from .._transport.addresses import listen as open_listener
from .._types import Certificate, ProcessId
from .._wire.messages import WANT_VALUE
from .current import find_node, set_process_node
from .guest_output import take_output
from .node import Node
from .slots import Slot
from .worker import withdraw


class Guest:
    """A node that serves one master, from now until that says goodbye or is gone, or ``end`` is called.

    It listens on a free port of the addresses in ``listen``, and where this machine alone can reach it. ``on_end`` is
    called once, with the reason. ``landlord`` is whose process this is.
    """

    def __init__(
        self,
        token: bytes,
        listen: Sequence[str],
        certificate: Certificate | None,
        timeout: float,
        on_end: Callable[[str], None],
        landlord: Any = None,
    ) -> None:
        self._on_end = on_end
        self._ending = threading.Lock()
        self._hurry = threading.Event()  # there is no use in finishing anything
        listeners = [open_listener(each, certificate) for each in (None, *listen)]
        self._node = node = Node(0, token, read_config(), dial=Dialler(certificate), listeners=listeners)
        node.main = {"__name__": "__main__", "__builtins__": __builtins__}
        node.landlord = landlord
        node.on_exit = self._exited
        node.leave = lambda: self.end("it was removed")
        node.modules.begin()
        self._output = take_output(node)
        if find_node() is None:
            set_process_node(node)  # for threads that the user's code starts
        self._abandoned = threading.Timer(timeout, self._give_up)
        self._abandoned.daemon = True
        self._abandoned.start()

    @property
    def address(self) -> str:
        """What the master dials."""
        return self._node.connections.address

    def end(self, reason: str) -> None:
        """Leave the cluster soon, in the midst of everything. Any thread; again is no error; does not wait."""
        self._hurry.set()
        if self._ending.acquire(blocking=False):
            threading.Thread(target=self._end, args=(reason,), name="farcall-end", daemon=True).start()

    def close(self, reason: str) -> None:
        """Take nothing more, do what has been given, for as long as the settings allow, and leave. Blocks."""
        if self._ending.acquire(blocking=False):
            if self._node.pid:
                self._drain(time.monotonic() + self._node.config.drain)
            self._end(reason)

    def _drain(self, deadline: float) -> None:
        node, told = self._node, Slot()
        with contextlib.suppress(Exception):  # the master is gone, or takes too long
            node.start(1, told, withdraw, (node.pid, node.config.drain), {}, WANT_VALUE)
            node.reader.wait(told, None, deadline)  # what it gave before its answer has come before that
        while any(each.running or each.out for each in list(node.reader.links)) and time.monotonic() < deadline:
            if self._hurry.wait(0.01):
                break

    def _end(self, reason: str) -> None:
        node = self._node
        self._abandoned.cancel()
        node.leaving = True
        node.interrupt_all()
        self._output.finish()
        self._on_end(reason)  # before the connection ends, which waits for its reason a moment only
        node.close()
        if find_node() is node:
            set_process_node(None)

    def _exited(self, pid: ProcessId, reason: str) -> None:
        if pid == 1:
            self.end(f"its master is gone: {reason}")

    def _give_up(self) -> None:
        if self._node.pid == 0:
            self.end("no master connected")
