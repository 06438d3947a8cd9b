"""Ctrl-C on the master: it never strikes where a message would be cut in two or an answer lost.

The handler that was there goes on to be called, but not while the main thread is inside farcall and not asleep:
then the ticker repeats the signal a little later.
"""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from .link import Link
from .main_thread import on_main_thread
from .slots import Parker

_CRITICAL = ("farcall._node.", "farcall._transport.", "farcall._wire.", "farcall._remote.", "farcall._pool")
# Where Ctrl-C hits the standard library, whose caller decides, but for what may take long there.
_TRANSPARENT = sys.stdlib_module_names - {"socket", "ssl", "subprocess"}
_ASLEEP = (Link.sleep.__code__, Parker.park.__code__)


class InterruptGuard:
    """Stands before whatever handles SIGINT."""

    def __init__(self, wake_ticker: Callable[[], None]) -> None:
        self._wake_ticker = wake_ticker
        self._handler: Callable[[int, FrameType | None], None] | None = None
        self._previous: Any = None
        self._deferred = False
        self.unchecked = False  # our handler may have been replaced: a notebook installs one for each cell

    def guard(self) -> None:
        """Stand before the handler that is there now, if that is not us already. On the main thread."""
        self.unchecked = False
        handler = signal.getsignal(signal.SIGINT)
        if handler is self._handler or not callable(handler) or not on_main_thread():
            return
        self._handler = self._handler or self._handle
        self._previous = handler
        signal.signal(signal.SIGINT, self._handler)

    def unguard(self) -> None:
        """Give SIGINT back to the handler that had it."""
        handler, self._handler = self._handler, None
        if handler is not None and on_main_thread() and signal.getsignal(signal.SIGINT) is handler:
            signal.signal(signal.SIGINT, self._previous)

    def look_again(self) -> None:
        """Have the next wait see whether our handler is still there."""
        self.unchecked = self._handler is not None

    def repeat(self) -> bool:
        """Send the signal again if it was put off; return whether it was. The ticker's thread."""
        if not self._deferred:
            return False
        self._deferred = False
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None and _is_transparent(str(inner.f_globals.get("__name__"))):
            inner = inner.f_back
        inside = inner is not None and str(inner.f_globals.get("__name__")).startswith(_CRITICAL)
        if inside and inner is not None and inner.f_code not in _ASLEEP:
            self._deferred = True
            self._wake_ticker()
        else:
            self._previous(number, frame)


def _is_transparent(module: str) -> bool:
    top = module.partition(".")[0]
    return top in _TRANSPARENT or top.startswith("namedtuple_")  # as a named tuple's own functions say of themselves
