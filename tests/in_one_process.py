"""Nodes of one cluster in one process, over the memory transport, and code that runs as one of them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from farcall._config import Config
from farcall._node.current import current_call
from farcall._node.executor import Call
from farcall._node.node import Node
from farcall._remote.calls import _begin
from farcall._remote.future import Future
from farcall._transport.memory import MemoryListener
from farcall._wire.messages import WANT_NOTHING

_TOKEN = b"t" * 32


class Nodes:
    """Nodes 1, 2, 3 … of one process; 1 is the master and dials the others. A context manager."""

    def __init__(self, count: int = 2, *, capacity: int = 1 << 20, **settings: Any) -> None:
        self._settings = settings
        self._listeners: dict[str, MemoryListener] = {}
        self._nodes = {1: self._make(1, None)}
        for pid in range(2, count + 1):
            listener = MemoryListener(capacity=capacity)
            self._listeners[listener.address] = listener
            self._nodes[pid] = self._make(pid, listener)
        peers = [node.describe() for node in self._nodes.values()]
        for node in self._nodes.values():
            for peer in peers:
                node.peers.add(peer)

    def _make(self, pid: int, listener: MemoryListener | None) -> Node:
        def dial(address: str, timeout: float) -> Any:
            return self._listeners[address].connect()

        return Node(pid, _TOKEN, Config(**self._settings), dial=dial, listeners=[listener] if listener else [])

    def __getitem__(self, pid: int) -> Node:
        return self._nodes[pid]

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(self, *outcome: object) -> None:
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()  # a fixture may keep this object, and with it what the nodes have mapped

    @contextlib.contextmanager
    def being(self, pid: int) -> Iterator[Node]:
        """Run the block as code of a node, outside of any call."""
        node = self[pid]
        token = current_call.set(Call(node, None, 0, WANT_NOTHING))
        try:
            yield node
        finally:
            current_call.reset(token)

    def spawn(self, where: int, function: Callable[..., Any], *args: Any, by: int = 1) -> Future[Any]:
        """Have one node call a function on another, or on itself."""
        future: Future[Any] = Future(self[by], where)
        with self.being(by):
            _begin(self[by], where, future, function, args, {})
        return future

    def run(self, where: int, function: Callable[..., Any], *args: Any, by: int = 1) -> Any:
        """Call a function and return its value."""
        return self.spawn(where, function, *args, by=by).result(10)

    def kill(self, pid: int, reason: str = "hit by a meteorite") -> None:
        """End a node without a word to the others, and let them know that it has ended, as its engine would."""
        self._nodes.pop(pid).close()
        for node in self._nodes.values():
            node.exited(pid, reason)
