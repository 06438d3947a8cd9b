"""What has happened in some folders: the kernel is asked (``inotify``), which takes half a microsecond."""

import contextlib
import ctypes
import os
import select
from collections.abc import Iterator, Set
from struct import Struct

_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800  # written, closed, moved, made, deleted; itself too
_EVENT = Struct("iIII")  # before a name, of whose bytes the last number says how many there are
_NOTHING: Set[str] = frozenset()


class Watch:
    """Folders that are watched. One thread at a time."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        self._poll = select.poll()
        self._is_blind = False  # the kernel cannot be asked, or not about all folders

    def add(self, *folders: str) -> None:
        """Watch folders from now on."""
        for folder in folders:
            if folder not in self._folders:
                self._folders.add(folder)
                self._begin(folder)

    def _begin(self, folder: str) -> None:
        try:
            if self._descriptor < 0:
                self._descriptor = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
                self._poll.register(self._descriptor, select.POLLIN)
            watched = self._library.inotify_add_watch(self._descriptor, os.fsencode(folder), _CHANGES) >= 0
        except (AttributeError, ValueError):  # another system, or too many instances
            watched = False
        if not watched and os.path.isdir(folder):
            self._is_blind = True

    def stirred(self) -> Set[str] | None:
        """Return the names of what has changed in the folders since this was last asked; None: it may be anything."""
        if self._is_blind:
            return None
        if not self._poll.poll(0):
            return _NOTHING
        names = set(self._read())
        if "" not in names:
            return names
        for folder in self._folders:  # one is another now, or there were too many events
            self._begin(folder)
        return None

    def _read(self) -> Iterator[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                events, place = os.read(self._descriptor, 1 << 16), 0
                while place < len(events):
                    length = _EVENT.unpack_from(events, place)[3]
                    place += _EVENT.size + length
                    yield os.fsdecode(events[place - length : place].rstrip(b"\0"))

    def close(self) -> None:
        """Watch nothing more."""
        if self._descriptor >= 0:
            self._poll.unregister(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
