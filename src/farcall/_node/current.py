"""Which node, and which call of it, am I?

The answer is a Call: inside a remote call that call; in a thread of a node a call that stands for the node;
elsewhere the node of the process, if it has one.
"""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .._wire.pickles import set_main

if TYPE_CHECKING:
    from .executor import Call
    from .node import Node

current_call: "ContextVar[Call | None]" = ContextVar("farcall_call", default=None)


class _Process:
    """The node of this process, for threads that farcall did not start."""

    node: "Node | None" = None
    make: "Callable[[], Node] | None" = None  # a master that is alone, so that programs run unchanged serially


def current_node() -> "Node":
    """Return the node that the running code belongs to; a process without one becomes a master that is alone."""
    node = find_node()
    if node is not None:
        return node
    if _Process.make is None:
        raise RuntimeError("this process is not part of a cluster")
    return _Process.make()


def find_node() -> "Node | None":
    """Return the node that the running code belongs to, if any."""
    call = current_call.get()
    return call.node if call is not None else _Process.node


def main_namespace() -> dict[str, Any]:
    """Return what ``__main__`` means to the running code: the globals of that module, or those of a guest."""
    node = find_node()
    return sys.modules["__main__"].__dict__ if node is None or node.main is None else node.main


set_main(main_namespace)


def running_call() -> "Call | None":
    """Return the remote call whose code this thread runs now, if any: it can be interrupted."""
    call = current_call.get()
    return call if call is not None and call.running else None


class shielded:
    """Let no interrupt strike in the block; one that comes meanwhile is raised at its end."""

    __slots__ = ("_call",)

    def __enter__(self) -> "Call | None":
        call = self._call = running_call()
        if call is not None:
            call.shield()
        return call

    def __exit__(self, *outcome: object) -> None:
        if self._call is not None:
            self._call.unshield()


def set_process_node(node: "Node | None") -> None:
    """Make a node that of this process, or none."""
    _Process.node = node


def set_node_maker(make: "Callable[[], Node]") -> None:
    """Say how a process without a node gets one."""
    _Process.make = make
