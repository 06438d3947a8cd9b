"""Frames: how messages lie in the stream of bytes between two processes.

    header       32 bytes: magic, kind, flags, target, call, length of the body, number of attachments, zero
    attachments  24 bytes each: type, a, b, c
    body         usually a pickle
    buffers      the bytes of each INLINE attachment, in their order

An attachment is something that the body refers to and that is not in it:

    INLINE     a buffer in this frame               a=flags  b=length
    SHARED     a buffer in memory of the sender     a=fd     b=length  c=segment << 1 | flags
    REFERENCE  a value that lives on a process      a=owner  b=creator c=number

Buffer flag 1 means that the body asks for the buffer by its index and not in the order of the pickle.
"""

import contextlib
import mmap
from struct import Struct
from typing import NamedTuple

from .._errors import FrameError

MAGIC = b"fC"
HEADER = Struct("<2sBBIQQII")
ATTACHMENT = Struct("<IIQQ")
INLINE, SHARED, REFERENCE = 1, 2, 3

CHUNK = 64 * 1024  # what one read takes at most; a frame that fits is parsed in place
MAPPED = 1 << 20  # from here on buffers are fresh mappings, which need not be zeroed first
MAXIMUM_ATTACHMENTS = 1 << 16

Attachment = tuple[int, int, int, int]
Body = bytes | bytearray | mmap.mmap | memoryview


class Frame(NamedTuple):
    """One message as it crossed the wire; ``buffers`` are writable and belong to it alone."""

    kind: int
    flags: int
    target: int
    call: int
    body: Body
    attachments: tuple[Attachment, ...] = ()
    buffers: tuple[bytearray | mmap.mmap, ...] = ()


def encode_head(
    kind: int, flags: int, target: int, call: int, size: int, attachments: tuple[Attachment, ...] = ()
) -> bytes:
    """Return what precedes the body of a frame."""
    head = HEADER.pack(MAGIC, kind, flags, target, call, size, len(attachments), 0)
    if attachments:
        return head + b"".join([ATTACHMENT.pack(*each) for each in attachments])
    return head


def encode_small(kind: int, flags: int, target: int, call: int, body: bytes) -> bytes:
    """Return a whole frame without attachments."""
    return HEADER.pack(MAGIC, kind, flags, target, call, len(body), 0, 0) + body


def allocate(size: int) -> bytearray | mmap.mmap:
    """Return writable memory of its own for a buffer that is about to arrive."""
    if size < MAPPED:
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the kernel has none
        memory.madvise(mmap.MADV_HUGEPAGE)  # a page fault for every 4 kB takes longer than to fill them
    return memory


class FrameDecoder:
    """A stream of bytes in, frames out. One thread at a time.

    Read into ``writable()``, say how much came with ``wrote(n)``, then call ``next()`` until it returns None.
    A frame larger than a chunk is read straight into the memory where it stays.
    """

    def __init__(self, limit: int = 1 << 38) -> None:
        self._limit = limit
        self._chunk = bytearray(CHUNK)
        self._view = memoryview(self._chunk)
        self._start = self._end = 0  # what of the chunk is read and not yet parsed
        self._large: _LargeFrame | None = None

    def holds_more(self) -> bool:
        """Return whether bytes are here that ``next`` has not made a frame of."""
        return self._start != self._end

    def writable(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._large is not None:
            return self._large.writable()
        return self._view[self._end :] if self._end else self._view

    def wrote(self, size: int) -> None:
        """Take note that the first ``size`` bytes of ``writable()`` have been filled."""
        if self._large is not None:
            self._large.wrote(size)
        else:
            self._end += size

    def next(self) -> Frame | None:
        """Return the next complete frame; None means that more bytes are needed. Bad bytes are a FrameError."""
        if self._large is not None:
            return self._finish_large()
        start = self._start
        have = self._end - start
        if have < HEADER.size:
            self._make_room()
            return None
        magic, kind, flags, target, call, size, attachments, zero = HEADER.unpack_from(self._chunk, start)
        if magic != MAGIC or zero or size > self._limit or attachments > MAXIMUM_ATTACHMENTS:
            raise FrameError(f"not a farcall frame: {bytes(self._view[start : start + HEADER.size])!r}")
        start += HEADER.size
        if not attachments and HEADER.size + size <= CHUNK:
            stop = start + size
            if stop > self._end:
                self._make_room()
                return None
            if stop == self._end:
                self._start = self._end = 0
            else:
                self._start = stop
            return Frame(kind, flags, target, call, bytes(self._view[start:stop]))
        self._large = _LargeFrame((kind, flags, target, call), size, attachments, self._limit)
        return self._finish_large(start)

    def _make_room(self) -> None:
        """Move an incomplete small frame to the front of the chunk, so that it can be completed."""
        if self._start:
            rest = self._end - self._start
            self._chunk[:rest] = self._chunk[self._start : self._end]
            self._start, self._end = 0, rest

    def _finish_large(self, start: int | None = None) -> Frame | None:
        """Go on with a large frame; ``start`` says where in the chunk its bytes begin, None that it is direct."""
        large = self._large
        assert large is not None
        if start is not None:
            self._start = large.feed(self._view[start : self._end]) + start
            if self._start == self._end:
                self._start = self._end = 0
        frame = large.frame()
        if frame is not None:
            self._large = None
        return frame


class _LargeFrame:
    """A frame under way: the attachments, the body and each inline buffer, filled one after the other."""

    def __init__(self, head: tuple[int, int, int, int], size: int, attachments: int, limit: int) -> None:
        self._head = head
        self._limit = limit
        self._table = bytearray(attachments * ATTACHMENT.size)
        self._body = allocate(size)
        self._attachments: tuple[Attachment, ...] | None = None
        self._buffers: list[bytearray | mmap.mmap] = []
        self._fault = ""
        self._wanted = [memoryview(self._table), memoryview(self._body)]
        self._advance()

    def _advance(self) -> None:
        """Go on to the first part that still lacks bytes; the table, once complete, announces the buffers."""
        while self._wanted and not len(self._wanted[0]):
            self._wanted.pop(0)
            if self._attachments is None:
                self._attachments = tuple(ATTACHMENT.iter_unpack(self._table))
                for kind, _, size, _ in self._attachments:
                    if kind not in (INLINE, SHARED, REFERENCE) or (kind == INLINE and size > self._limit):
                        self._fault = f"an attachment of type {kind} and {size} bytes"
                        return
                    if kind == INLINE:
                        self._buffers.append(allocate(size))
                        self._wanted.append(memoryview(self._buffers[-1]))

    def writable(self) -> memoryview:
        return self._wanted[0]

    def wrote(self, size: int) -> None:
        self._wanted[0] = self._wanted[0][size:]
        self._advance()

    def feed(self, data: memoryview) -> int:
        """Take what is needed from the front of ``data`` and return how much that was."""
        taken = 0
        while self._wanted and taken < len(data):
            size = min(len(self._wanted[0]), len(data) - taken)
            self._wanted[0][:size] = data[taken : taken + size]
            taken += size
            self.wrote(size)
        return taken

    def frame(self) -> Frame | None:
        if self._fault:
            raise FrameError(self._fault)
        if self._wanted:
            return None
        return Frame(*self._head, self._body, self._attachments or (), tuple(self._buffers))
