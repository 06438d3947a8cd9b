"""A transport inside one process, for tests: what is sent arrives, in pieces as large as the test says."""

import secrets
import socket
import threading
from collections.abc import Sequence

from .base import Listener, Transport


class _Pipe:
    """Bytes on their way in one direction; ``signal`` polls readable exactly while there is something to read."""

    def __init__(self, capacity: int, piece: int) -> None:
        self.signal, self._sender = socket.socketpair()
        self._lock = threading.Lock()
        self._data = bytearray()
        self._capacity = capacity
        self._piece = piece
        self._ended = False  # by the writer
        self._refused = False  # by the reader
        self._signalled = False

    def take(self, buffer: memoryview) -> int:
        with self._lock:
            if self._refused:
                return 0
            size = min(len(buffer), len(self._data), self._piece)
            if not size and not self._ended:
                raise BlockingIOError
            buffer[:size] = self._data[:size]
            del self._data[:size]
            self._update()
            return size

    def put(self, data: bytes) -> int:
        with self._lock:
            if self._refused or self._ended:
                raise BrokenPipeError("the other side is gone")
            size = min(len(data), self._piece, self._capacity - len(self._data))
            if not size:
                raise BlockingIOError
            self._data += data[:size]
            self._update()
            return size

    def end(self) -> None:
        with self._lock:
            self._ended = True
            self._update()

    def refuse(self) -> None:
        with self._lock:
            self._refused = True
            self.signal.close()
            self._sender.close()

    def _update(self) -> None:
        wanted = bool(self._data) or self._ended
        if wanted != self._signalled and not self._refused:
            self._signalled = wanted
            self._sender.send(b"x") if wanted else self.signal.recv(1)


class MemoryTransport(Transport):
    """One end of a pair of pipes, see ``memory_pair``."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def fileno(self) -> int:
        return self._incoming.signal.fileno()

    def receive_into(self, buffer: memoryview) -> int:
        return self._incoming.take(buffer)

    def send(self, parts: Sequence[bytes | memoryview]) -> int:
        return self._outgoing.put(b"".join(parts))

    def close(self) -> None:
        self._outgoing.end()
        self._incoming.refuse()


def memory_pair(*, capacity: int = 1 << 20, piece: int = 1 << 20) -> tuple[MemoryTransport, MemoryTransport]:
    """Return two connected ends that hold ``capacity`` bytes and move at most ``piece`` at a time."""
    there, back = _Pipe(capacity, piece), _Pipe(capacity, piece)
    return MemoryTransport(back, there), MemoryTransport(there, back)


class MemoryListener(Listener):
    """A listener that ``dial_memory`` finds; ``piece`` and ``capacity`` as in ``memory_pair``."""

    def __init__(self, *, capacity: int = 1 << 20, piece: int = 1 << 20) -> None:
        self.address = f"memory:{secrets.token_hex(8)}"
        self._size = capacity, piece
        self._waiting: list[MemoryTransport] = []
        self._signal, self._sender = socket.socketpair()
        self._signal.setblocking(False)

    def fileno(self) -> int:
        return self._signal.fileno()

    def connect(self) -> MemoryTransport:
        """Return the dialling end of a new connection; ConnectionRefusedError once closed."""
        if self._signal.fileno() < 0:
            raise ConnectionRefusedError(f"nobody listens on {self.address}")
        capacity, piece = self._size
        mine, theirs = memory_pair(capacity=capacity, piece=piece)
        self._waiting.append(theirs)
        self._sender.send(b"x")
        return mine

    def accept(self) -> MemoryTransport:
        self._signal.recv(1)
        if not self._waiting:
            raise ConnectionAbortedError(f"{self.address} is closed")
        return self._waiting.pop(0)

    def close(self) -> None:
        self._signal.close()
        self._sender.close()
        while self._waiting:
            self._waiting.pop().close()
