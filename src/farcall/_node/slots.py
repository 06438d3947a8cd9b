"""Where an outcome arrives, and how a thread sleeps until it does."""

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from .._wire.frames import Frame

if TYPE_CHECKING:
    from .executor import Call
    from .link import Link


class Target(Protocol):
    """What a RESULT is delivered to. Whoever takes it out of ``Link.pending`` delivers, and nobody else does."""

    settled: bool
    parkers: list[Any]

    def settle(self, link: "Link", frame: Frame) -> None:
        """Take an answer from the wire; it is decoded by the thread that wants it."""

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Take an outcome that arose in this process."""

    def begin(self, call: "Call") -> None:
        """Take note that a call of this process to itself is about to run."""

    def cancel(self) -> bool:
        """Settle as cancelled and interrupt the call; false if it is settled otherwise."""


class Slot:
    """The outcome of one call, without ceremony."""

    __slots__ = ("error", "frame", "link", "parkers", "settled", "value")

    def __init__(self) -> None:
        self.settled = False
        self.parkers: list[Any] = []
        self.frame: Frame | None = None
        self.link: Link | None = None
        self.value: Any = None
        self.error: BaseException | None = None

    def settle(self, link: "Link", frame: Frame) -> None:
        self.link = link
        self.frame = frame
        self.settled = True
        if self.parkers:
            wake(self.parkers)

    def finish(self, value: Any, error: BaseException | None) -> None:
        self.value = value
        self.error = error
        self.settled = True
        if self.parkers:
            wake(self.parkers)

    def begin(self, call: "Call") -> None:
        pass

    def cancel(self) -> bool:
        return False  # whoever waits for it is interrupted and cancels it

    def outcome(self) -> Any:
        """Return the local value or raise the local error."""
        if self.error is not None:
            raise self.error
        return self.value


class Parker:
    """One thread asleep. ``unpark`` before ``park`` is remembered; twice is once. Any thread may unpark."""

    __slots__ = ("_lock", "woken")

    def __init__(self) -> None:
        self.woken = False  # or about to wake
        self._lock = threading.Lock()
        self._lock.acquire()

    def park(self, timeout: float = -1) -> None:
        self._lock.acquire(timeout=timeout)

    def unpark(self) -> None:
        self.woken = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # awake already


def wake(parkers: list[Parker]) -> None:
    """Wake every thread of a list. A parker that is added meanwhile finds its target settled by itself."""
    for parker in list(parkers):
        parker.unpark()


def discard(parkers: "list[Parker] | deque[Parker]", parker: Parker) -> None:
    """Take a parker out of a list, if it is there."""
    try:
        parkers.remove(parker)
    except ValueError:
        pass
