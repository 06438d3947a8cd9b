"""Bytes passed on between connections, for processes that cannot reach each other but can both be reached from here.

What passes is not looked at: the two ends prove to each other who they are, through us. One thread serves all pairs.
A slow reader slows its writer down, as on one connection: no more is read from a side than the other has room for.
"""

import selectors
import socket
import threading

from .._transport.base import Transport

_ROOM = 1 << 18  # bytes under way in each direction
_ROUNDS = 8  # in one direction before the others get their turn


class Relay:
    """The pairs of connections that this process connects, and the thread that does it. Any thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._new: list[_Pair] = []
        self._pairs: set[_Pair] = set()  # the thread's
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="farcall-relay", daemon=True)
        self._thread.start()

    def join(self, one: Transport, other: Transport) -> None:
        """Pass on what comes from each to the other, until one of them ends; then the other does."""
        self._new.append(_Pair(one, other))
        self._waker.send(b"x")

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        self._waker.send(b"x")
        self._thread.join()
        self._woken.close()
        self._waker.close()

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._begin()
                elif key.data in self._pairs:
                    self._serve(key.data)
        for pair in list(self._pairs) + self._new:
            self._end(pair)
        self._selector.close()

    def _begin(self) -> None:
        self._woken.recv(4096)
        while self._new:
            pair = self._new.pop()
            self._pairs.add(pair)
            self._serve(pair)

    def _serve(self, pair: "_Pair") -> None:
        try:
            pair.move()
            for transport, events in pair.wishes():
                self._watch(pair, transport.fileno(), events)
        except (OSError, EOFError):  # one side has ended
            self._end(pair)

    def _watch(self, pair: "_Pair", descriptor: int, events: int) -> None:
        before = self._selector.get_map().get(descriptor)
        if before is None and events:
            self._selector.register(descriptor, events, pair)
        elif before is not None and not events:
            self._selector.unregister(descriptor)
        elif before is not None and before.events != events:
            self._selector.modify(descriptor, events, pair)

    def _end(self, pair: "_Pair") -> None:
        self._pairs.discard(pair)
        for transport in pair.sides:
            if self._selector.get_map().get(transport.fileno()) is not None:
                self._selector.unregister(transport.fileno())
            transport.close()


class _Pair:
    """Two connections and what is under way between them."""

    def __init__(self, one: Transport, other: Transport) -> None:
        self.sides = one, other
        self._ways = _Way(one, other), _Way(other, one)

    def move(self) -> None:
        """Pass on what there is. EOFError, OSError when a side has ended."""
        for way in self._ways:
            way.move()

    def wishes(self) -> list[tuple[Transport, int]]:
        """Return each side and what it is waited for: bytes if the way from it has room, room if there is one to it."""
        there, back = self._ways
        return [(one.source, one.wants_bytes() | other.wants_room()) for one, other in ((there, back), (back, there))]


class _Way:
    """One direction."""

    def __init__(self, source: Transport, target: Transport) -> None:
        self.source = source
        self._target = target
        self._buffer = memoryview(bytearray(_ROOM))
        self._left = self._buffer[:0]

    def wants_bytes(self) -> int:
        return 0 if self._left else selectors.EVENT_READ

    def wants_room(self) -> int:
        return selectors.EVENT_WRITE if self._left else 0

    def move(self) -> None:
        for _ in range(_ROUNDS):
            try:
                if not self._left:
                    size = self.source.receive_into(self._buffer)
                    if not size:
                        raise EOFError
                    self._left = self._buffer[:size]
                self._left = self._left[self._target.send([self._left]) :]
            except BlockingIOError:
                return
