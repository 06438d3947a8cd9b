"""What the calls of guests print: it goes to their masters, and everything else where it went before."""

import sys
import threading
from typing import TYPE_CHECKING, Any

from .._errors import ProcessExited
from .cells import cell_of_call
from .current import current_call
from .prompt import Asker, notify

if TYPE_CHECKING:
    from .node import Node

_STREAMS = ("stdout", "stderr")


class Output:
    """Sends what the calls of one node print to its master, in whole lines, each thread's by itself."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._begun: dict[tuple[int, str], str] = {}  # by thread and stream: a line without its end

    def write(self, stream: str, text: str) -> None:
        """Take a text in, and send the lines that have an end."""
        key = threading.get_ident(), stream
        lines, newline, rest = (self._begun.pop(key, "") + text).rpartition("\n")
        if rest:
            self._begun[key] = rest
        if newline:
            self._send(stream, lines)

    def finish(self) -> None:
        """Send what has been begun, and take no more."""
        for (_, stream), text in list(self._begun.items()):
            self._send(stream, text)
        self._begun.clear()
        for name in _STREAMS:
            router = getattr(sys, name)
            if isinstance(router, Router):
                router.remove(self._node)

    def _send(self, stream: str, text: str) -> None:
        try:
            notify(self._node, 1, show, stream, text, cell_of_call())
        except (ProcessExited, OSError, LookupError, ValueError):
            pass  # nobody is left to read it


class Router:
    """Stands for ``sys.stdout`` or ``sys.stderr`` as long as there are guests in the process."""

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self._original = original
        self._outputs: dict[Node, Output] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def write(self, text: str) -> int:
        """Write to the master whose call this thread runs, or to the original stream."""
        call = current_call.get()
        output = self._outputs.get(call.node) if call is not None and call.link is not None else None
        if output is None:
            written: int = self._original.write(text)
            return written
        output.write(self._name, text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def add(self, node: "Node", output: Output) -> None:
        """Send what the calls of a node print to its master."""
        self._outputs[node] = output

    def remove(self, node: "Node") -> None:
        """Take no more for a node; after the last one the original stream is back."""
        self._outputs.pop(node, None)
        if not self._outputs and getattr(sys, self._name) is self:
            setattr(sys, self._name, self._original)


_taking = threading.Lock()


def take_output(node: "Node") -> Output:
    """Have what the calls of a node print from now on sent to its master, until ``finish``."""
    output = Output(node)
    with _taking:
        for name in _STREAMS:
            router = getattr(sys, name)
            if not isinstance(router, Router):
                router = Router(name, router)
                setattr(sys, name, router)
            router.add(node, output)
    return output


def show(node: "Node", asker: Asker, stream: str, text: str, cell: int) -> None:
    """Print lines of a guest; an operation on the master."""
    node.on_output(asker.pid, stream, text, cell)
