"""The main thread of a worker, which some libraries insist on: it leads while there is nothing to run, and the
first call to an idle worker runs on it.

There is one ticket, which lies here while the main thread neither runs a call nor is about to. Who takes it may
give the main thread one thing: a call, before whose answer the ticket is put back, or the leader's role.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .slots import Parker

Task = tuple[Callable[..., None], tuple[Any, ...]]

_main_thread = threading.main_thread().ident


def on_main_thread() -> bool:
    """Whether this is the main thread of the process."""
    return threading.get_ident() == _main_thread


class MainThread:
    """Hands calls and the leader's role to the main thread."""

    def __init__(self, wake_leader: Callable[[], None]) -> None:
        self._wake_leader = wake_leader
        self._tickets: list[int] = []
        self._parker = Parker()
        self._has_role = False
        self._closed = False
        self.tasks: deque[Task] = deque()  # at most one
        self.wants_role = False

    def claim(self) -> bool:
        """Take the ticket; false if it is gone. Any thread."""
        try:
            self._tickets.pop()
        except IndexError:
            return False
        return True

    def free(self) -> None:
        """Put the ticket back; on the main thread."""
        self._tickets.append(1)

    def give(self, function: Callable[..., None], *args: Any) -> bool:
        """Have the main thread run something now; false if it runs something already. Any other thread."""
        if not self.claim():
            return False
        self.tasks.append((function, args))
        self._wake_leader()  # in case that it is the main thread, asleep
        self._parker.unpark()
        return True

    def give_role(self) -> bool:
        """Make the main thread the leader, as it wants; false if it has been given a call. On the leader's thread."""
        self.wants_role = False
        if not self.claim():
            return False
        self._has_role = True
        self._parker.unpark()
        return True

    def next_task(self) -> Task | None:
        """Wait for a call, or for the leader's role or the end (None). On the main thread, which does not lead."""
        while not self._closed:
            if self.tasks:
                return self.tasks.popleft()
            if self._has_role:
                self._has_role = False
                self.free()  # while it leads it can still be given a call
                return None
            self.wants_role = True
            self._wake_leader()
            self._parker.park()
        return None

    def close(self) -> None:
        """Have the main thread return from ``next_task``."""
        self._closed = True
        self._parker.unpark()
