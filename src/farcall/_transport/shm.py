"""Large buffers between processes of one host: written once by the sender, mapped by each receiver.

A segment is an anonymous file (memfd): it has no name, so nothing is left of it however its processes die, and
it does not count against /dev/shm. A receiver on the same host opens it through /proc and maps it privately:
it reads the sender's pages and gets pages of its own where it writes. When its arrays are gone it says so, and
the sender writes the next buffer into the same pages, which saves the page faults of fresh memory.
"""

import mmap
import os
import resource
import secrets
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

_ROUND = 1 << 16
_PIECE = 1 << 22


class Segment:
    """Shared memory of this process. Its pages may be rewritten when nobody holds it."""

    def __init__(self, number: int, descriptor: int, capacity: int) -> None:
        self.number = number
        self.descriptor = descriptor
        self.capacity = capacity
        self.holders: Counter[Hashable] = Counter()
        self._written = 0  # bytes from the start that have pages
        self._mapping: mmap.mmap | None = None  # of these

    def write(self, view: memoryview, *, may_map: bool) -> None:
        """Fill the segment from its start. OSError if there is no memory for its pages.

        The first time with ``pwrite``, which needs no mapping and so no fault per page; later through a mapping that
        is kept, which is twice as quick.
        """
        size = len(view)
        if size > self._written or not (may_map or self._mapping):
            self.close_mapping()
            done = 0
            while done < size:
                done += os.pwrite(self.descriptor, view[done:], done)
            self._written = max(size, self._written)
            return
        if self._mapping is None:
            self._mapping = mmap.mmap(self.descriptor, self._written, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        for start in range(0, size, _PIECE):  # other threads may run in between
            stop = min(start + _PIECE, size)
            self._mapping[start:stop] = view[start:stop]

    def close_mapping(self) -> None:
        """Give up the mapping, and the descriptor that it keeps."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None


class SegmentPool:
    """The segments of this process. Any thread.

    ``share`` fills one and holds it for one receiver; ``release`` lets go. What nobody holds is kept up to
    ``limit`` bytes and reused.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self._segments: dict[int, Segment] = {}
        self._free: list[Segment] = []
        self._constants: dict[int, tuple[weakref.ref[Any], Segment]] = {}
        self._next = 0
        self.copies = 0  # how many buffers were written, for tests and benchmarks

    def share(self, view: memoryview, constant: Any, receiver: Hashable) -> Segment | None:
        """Return a segment with the content of ``view``, held for ``receiver``; None if there is no memory.

        ``constant`` is the owner of memory that cannot change: it is written once for all receivers.
        """
        with self._lock:
            segment = self._find_constant(constant)
            if segment is not None:
                segment.holders[receiver] += 1
                return segment
            segment = self._take(len(view))
            if segment is None:
                return None
            segment.holders[receiver] += 1
        try:
            segment.write(view, may_map=2 * len(self._segments) < _descriptors_to_use())
        except OSError:  # no memory for the pages
            self._discard(segment)
            return None
        self.copies += 1
        if constant is not None:
            self._remember_constant(constant, segment)
        return segment

    def release(self, number: int, receiver: Hashable) -> None:
        """Take note that a receiver has one mapping less. A late or unknown release changes nothing."""
        with self._lock:
            segment = self._segments.get(number)
            if segment is None or not segment.holders[receiver]:
                return
            segment.holders[receiver] -= 1
            self._recycle(segment)

    def lose(self, receiver: Hashable) -> None:
        """Take note that a receiver is gone with all its mappings."""
        with self._lock:
            for segment in list(self._segments.values()):
                if segment.holders.pop(receiver, 0):
                    self._recycle(segment)

    def close(self) -> None:
        """Give all memory back; receivers keep what they have mapped."""
        with self._lock:
            for segment in self._segments.values():
                segment.close_mapping()
                os.close(segment.descriptor)
            self._segments.clear()
            self._free.clear()
            self._constants.clear()

    def _take(self, size: int) -> Segment | None:
        """Return the free segment that fits best, or a fresh one; None if the system has none."""
        fitting = [each for each in self._free if size <= each.capacity <= 2 * size + _ROUND]
        if fitting:
            best = min(reversed(fitting), key=lambda each: each.capacity)  # the last used: a cache may have it
            self._free.remove(best)
            return best
        if len(self._segments) >= _descriptors_to_use():
            return None
        capacity = -(-size // _ROUND) * _ROUND
        try:
            descriptor = _allocate(capacity)
        except OSError:
            return None
        self._next += 1
        segment = self._segments[self._next] = Segment(self._next, descriptor, capacity)
        return segment

    def _recycle(self, segment: Segment) -> None:
        segment.holders += Counter()  # drops zeros
        if segment.holders:
            return
        self._free.append(segment)
        while sum(each.capacity for each in self._free) > self._limit:
            self._discard(self._free.pop(0))

    def _discard(self, segment: Segment) -> None:
        with self._lock:
            if self._segments.pop(segment.number, None) is not None:
                segment.close_mapping()
                os.close(segment.descriptor)

    def _find_constant(self, constant: Any) -> Segment | None:
        known = self._constants.get(id(constant))
        return known[1] if known is not None and known[0]() is constant and constant is not None else None

    def _remember_constant(self, constant: Any, segment: Segment) -> None:
        """Keep the segment as long as its source lives; the source counts as a holder."""
        key = id(constant)

        def forget(gone: object) -> None:
            with self._lock:
                known = self._constants.get(key)
                if known is not None and known[0] is gone:
                    del self._constants[key]
                    self.release(segment.number, "constant")

        with self._lock:
            if self._find_constant(constant) is None:  # else another thread has written it meanwhile
                self._constants[key] = weakref.ref(constant, forget), segment
                segment.holders["constant"] += 1


def _descriptors_to_use() -> int:
    """Return how many descriptors shared memory may take in either role; what does not fit travels or is copied."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def _allocate(capacity: int) -> int:
    descriptor = os.memfd_create("farcall", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, capacity)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Mapping(mmap.mmap):
    """A private view of another process's segment; says so when the last array on it is gone."""

    source: tuple[int, int, int]
    on_release: Callable[[], None] | None = None

    alive = 0  # in this process, about: each keeps a descriptor open

    def __del__(self) -> None:
        if self.on_release is not None:
            Mapping.alive -= 1
            self.on_release()

    def again(self) -> mmap.mmap:
        """Return another private view of the same segment, without what has been written to this one."""

        def let_go(original: Mapping = self) -> None:
            """Hold the first view, and with it the segment, as long as the second lives."""

        return map_segment(*self.source, let_go)


def map_segment(process: int, descriptor: int, size: int, on_release: Callable[[], None]) -> mmap.mmap:
    """Map a segment of a process of this host, copy on write. OSError if it is gone or out of reach.

    A mapping keeps a descriptor open. Where many are open already the content is copied instead.
    """
    opened = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if Mapping.alive < _descriptors_to_use():
            mapping = Mapping(opened, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            mapping.source = process, descriptor, size
            mapping.on_release = on_release
            Mapping.alive += 1
            return mapping
        copy = mmap.mmap(-1, size)
        _read(opened, memoryview(copy))
    finally:
        os.close(opened)
    on_release()
    return copy


def _read(descriptor: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        done += os.preadv(descriptor, [view[done:]], done)


class Probe:
    """A secret in shared memory: who can read it shares this host with us."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(16)
        self.descriptor = -1
        if hasattr(os, "memfd_create"):
            try:
                self.descriptor = _allocate(len(self.secret))
                os.pwrite(self.descriptor, self.secret, 0)
            except OSError:
                self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def can_read(process: int, descriptor: int, secret: bytes) -> bool:
    """Whether the probe of another process can be read from here.

    If that is on another host, its numbers mean somebody else's descriptor here: a pipe must be neither waited for nor
    emptied.
    """
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        if descriptor < 0 or not os.readlink(path).startswith("/memfd:"):
            return False
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.pread(opened, len(secret) + 1, 0) == secret
    finally:
        os.close(opened)
