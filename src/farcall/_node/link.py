"""One connection to one peer, and everything that is remembered about it.

Reading: the thread that holds ``reading`` takes bytes and handles messages; it is either the node's leader or a
thread that waits for an answer from this very peer (see ``node``). Writing: any thread, under ``sending``.
A frame once begun is always finished, so the stream stays whole whatever happens to the sender.
"""

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._config import Config
from .._errors import FrameError
from .._transport.base import Transport
from .._transport.shm import SegmentPool, map_segment
from .._types import CallId, ProcessId
from .._wire.frames import INLINE, REFERENCE, SHARED, Attachment, Frame, FrameDecoder, encode_head, encode_small
from .._wire.pickles import Payload
from .slots import Parker, Target

if TYPE_CHECKING:
    from .executor import Call, Definition
    from .metering import TimedCall

_FIRST_SENDS = 4  # calls that go out at once before later ones wait for company
_MISSES = 4  # useless polls in a row, then polling is given up
_RETRY = 32  # every so many waits it is tried again: more reacts later, less burns more
_COALESCED = 64  # frames that wait for company at most


class Habit:
    """Whether to poll before sleeping: as long as it pays. When it has not for some time, it is tried now and then."""

    __slots__ = ("_misses",)

    def __init__(self) -> None:
        self._misses = 0

    def pays(self) -> bool:
        if self._misses < _MISSES:
            return True
        self._misses += 1
        return not self._misses % _RETRY

    def hit(self) -> None:
        self._misses = 0

    def miss(self) -> None:
        self._misses += 1


class Link:
    """A connection to a process of the cluster."""

    def __init__(
        self, transport: Transport, pid: ProcessId, process: int, shares: bool, pool: SegmentPool, config: Config
    ) -> None:
        self.pid = pid
        self.process = process  # of the operating system, there
        self.transport = transport
        self.receive = transport.receive_into
        self.decoder = FrameDecoder(config.frame_limit)
        self.closed = False  # no more bytes in either direction
        # Reading: guarded by ``reading``, but for ``waiters`` and ``kick``, which any thread uses.
        self.reading = threading.Lock()
        self.waiters: deque[Parker] = deque()  # threads that wait for an answer while another one reads
        self.registered: int | None = None  # the descriptor that the leader watches, guarded by the reader
        self.hot = False  # not watched by the leader: waiting threads read it
        self.used = False  # since the last tick, by a waiting thread
        self.waiting = Habit()  # of threads that wait for an answer
        self.leading = Habit()  # of the leader that waits for a call
        self._kicked, self._kicker = socket.socketpair()  # objects, not numbers: a late kick hits nobody else
        self._kicked.setblocking(False)
        self._kicker.setblocking(False)
        self._poll = select.poll()
        self._poll.register(transport.fileno(), select.POLLIN)
        self._poll.register(self._kicked, select.POLLIN)
        # Writing.
        self.sending = threading.Lock()
        self.out: list[bytes] = []  # frames that wait for company; the first may be the rest of one
        self._pool = pool if shares else None
        self._shared_minimum = config.shared_minimum
        # Calls: single dict operations only, which are atomic.
        self.pending: dict[CallId, Target] = {}  # made by us
        self.timed: dict[CallId, TimedCall] = {}  # of them those that a ``timed`` block counts
        self.running: dict[CallId, Call] = {}  # made by the peer
        self.last_call: Call | None = None  # of the peer, to begin them in order; the reader's
        self.known: set[int] = set()  # numbers of our functions that the peer has
        self.heard = 0  # how many of the news that we have of modules the peer has too
        self.definitions: dict[int, Definition] = {}  # the peer's functions

    def __repr__(self) -> str:
        return f"<Link to {self.pid}: {'closed' if self.closed else 'open'}, {len(self.pending)} calls pending>"

    def post(self, frame: bytes) -> None:
        """Send a frame at once, behind whatever waited for company. OSError if the connection broke."""
        with self.sending:
            if self.out:
                self.out.append(frame)
                frame = self._take_out()
            self._send_one(frame)

    def enqueue(self, frame: bytes) -> bool:
        """Let a frame wait for company if others are under way; true if somebody must see to its leaving."""
        self.out.append(frame)
        if len(self.pending) < _FIRST_SENDS or len(self.out) >= _COALESCED:
            self.flush()
            return False
        return True

    def offer(self, frame: bytes) -> bool:
        """Send a frame as far as there is room, without waiting; false if somebody must flush. Any thread."""
        self.out.append(frame)
        if not self.sending.acquire(False):
            return False
        try:
            if not self.out:
                return True  # it has left with another
            data = self._take_out()
            try:
                sent = 0 if self.closed else self.transport.send((data,))
            except BlockingIOError:
                sent = 0
            if sent != len(data):
                self.out.insert(0, data[sent:])
            return sent == len(data)
        finally:
            self.sending.release()

    def flush(self) -> None:
        """Send what waited for company."""
        with self.sending:
            if self.out:
                self._send_one(self._take_out())

    def flush_quietly(self) -> None:
        """Do so; whoever reads will find the end of the connection."""
        try:
            self.flush()
        except OSError:
            pass

    def post_payload(self, kind: int, flags: int, target: int, call: CallId, payload: Payload) -> None:
        """Send a message with a payload. The holds of its references have been announced by the node."""
        if not payload.buffers and not payload.references:
            self.post(encode_small(kind, flags, target, call, payload.body))
            return
        inline: list[memoryview] = []
        attachments = [self._attach(buffer, inline) for buffer in payload.buffers]
        attachments += [(REFERENCE, *each) for each in payload.references]
        head = encode_head(kind, flags, target, call, len(payload.body), tuple(attachments))
        with self.sending:
            before = [self._take_out()] if self.out else []
            self._send_all([*before, head, payload.body, *inline])

    def _attach(self, buffer: Any, inline: list[memoryview]) -> Attachment:
        """Put a buffer into shared memory if that pays and works, else into the frame."""
        view, by_index, constant = buffer
        if self._pool is not None and len(view) >= self._shared_minimum:
            shared = self._pool.share(view, constant, self)
            if shared is not None:
                return SHARED, shared.descriptor, len(view), shared.number << 1 | by_index
        inline.append(view)
        return INLINE, by_index, len(view), 0

    def _take_out(self) -> bytes:
        """Return the frames that waited; with ``sending`` held. A frame appended meanwhile stays for the next."""
        count = len(self.out)
        data = self.out[0] if count == 1 else b"".join(self.out[:count])
        del self.out[:count]
        return data

    def _send_one(self, data: bytes) -> None:
        """Send some bytes, which usually fit at once; with ``sending`` held."""
        try:
            sent = 0 if self.closed else self.transport.send((data,))
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self._send_all([memoryview(data)[sent:]])

    def _send_all(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send every byte, waiting for room as long as it takes; with ``sending`` held."""
        if self.closed:
            raise BrokenPipeError("the connection is closed")
        left = [part for part in parts if len(part)]
        while left:
            try:
                sent = self.transport.send(left)
            except BlockingIOError:
                self._wait_for_room()
                continue
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = memoryview(left[0])[sent:]

    def _wait_for_room(self) -> None:
        poll = select.poll()
        poll.register(self.transport.fileno(), select.POLLOUT)
        poll.poll()

    def fill(self) -> int:
        """Read what has come into the decoder and return how much; 0 means that the connection has ended.

        BlockingIOError if nothing has come. With ``reading`` held.
        """
        try:
            size = self.receive(self.decoder.writable())
        except BlockingIOError:
            raise
        except OSError:
            return 0
        if size:
            self.decoder.wrote(size)
        return size

    def next_frame(self) -> Frame | None:
        """Return the next complete message; a stream that makes no sense ends the connection (EOFError)."""
        try:
            return self.decoder.next()
        except (FrameError, MemoryError, OverflowError, OSError) as error:
            raise EOFError(str(error)) from error

    def sleep(self, deadline: float | None) -> None:
        """Sleep until bytes come, somebody kicks, or the deadline has passed; with ``reading`` held."""
        timeout = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
        for descriptor, _ in self._poll.poll(timeout):
            if descriptor == self._kicked.fileno():
                self._kicked.recv(4096)

    def kick(self) -> None:
        """Wake the thread that sleeps on this link, so that it looks around. Any thread."""
        try:
            self._kicker.send(b"x")
        except OSError:
            pass  # closed, and nobody sleeps here; or full, and the sleeper has kicks enough

    def is_awaited(self) -> bool:
        """Return whether a thread that sleeps would rather read this link."""
        return any(not each.woken for each in tuple(self.waiters))

    def pass_reading_on(self) -> None:
        """Let the next waiting thread read, if there is one; after ``reading`` was released."""
        while self.waiters and not self.reading.locked():
            try:
                parker = self.waiters.popleft()
            except IndexError:
                return
            parker.unpark()
            return

    def unwrap(
        self, frame: Frame, hold: Callable[[int, int, int], Any], release: Callable[["Link", int], None]
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Return ``(buffers, indexed, holds)`` of a frame. Segments that cannot be mapped are None among them."""
        buffers: list[Any] = []
        indexed: list[Any] = []
        holds: list[Any] = []
        inline = iter(frame.buffers)
        for kind, a, b, c in frame.attachments:
            if kind == REFERENCE:
                holds.append(hold(a, b, c))
                continue
            by_index = (c if kind == SHARED else a) & 1
            buffer = self._map(a, b, c >> 1, release) if kind == SHARED else next(inline)
            (indexed if by_index else buffers).append(buffer)
        return buffers, indexed, holds

    def _map(self, descriptor: int, size: int, number: int, release: Callable[["Link", int], None]) -> Any:
        try:
            return map_segment(self.process, descriptor, size, lambda: release(self, number))
        except (OSError, ValueError):
            release(self, number)
            return None

    def close(self) -> None:
        """Close the connection; the reader must have left or find out by itself. Closing twice is closing once."""
        if self.closed:
            return
        self.closed = True
        self.transport.close()
        if self._pool is not None:
            self._pool.lose(self)
        self.kick()

    def dispose(self) -> None:
        """Free the descriptors once the reader has left."""
        self.close()
        with self.reading:
            self._kicked.close()
            self._kicker.close()
