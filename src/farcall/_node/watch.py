"""Whether something has happened in some folders: the kernel is asked (``inotify``), which takes half a microsecond."""

import contextlib
import ctypes
import os
import select

_CHANGES = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800  # written, closed, moved, made, deleted; itself too


class Watch:
    """Folders that are watched. One thread at a time. Where the kernel cannot be asked they always have stirred."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        self._poll = select.poll()
        self._is_blind = False

    def add(self, *folders: str) -> None:
        """Watch folders from now on."""
        for folder in folders:
            if folder not in self._folders:
                self._folders.add(folder)
                self._begin(folder)

    def _begin(self, folder: str) -> None:
        """Have the kernel watch a folder; again is no error, and needed where it was deleted and made anew."""
        try:
            if self._descriptor < 0:
                self._descriptor = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
                self._poll.register(self._descriptor, select.POLLIN)
            watched = self._library.inotify_add_watch(self._descriptor, os.fsencode(folder), _CHANGES) >= 0
        except (AttributeError, ValueError):  # another system, or too many instances
            watched = False
        if not watched and os.path.isdir(folder):
            self._is_blind = True

    def has_stirred(self) -> bool:
        """Whether anything has happened since this was last asked."""
        if self._is_blind:
            return True
        if not self._poll.poll(0):
            return False
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 1 << 16):
                pass
        for folder in self._folders:
            self._begin(folder)
        return True

    def close(self) -> None:
        """Watch nothing more."""
        if self._descriptor >= 0:
            self._poll.unregister(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
