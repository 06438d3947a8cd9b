"""Who ended and who wants to know: the bookkeeping of ``Engine.watch``."""

import threading
from collections.abc import Callable

from .base import Launched


class Exits:
    """Reports the end of each worker once to each watcher, also to those that come later. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: list[Callable[[Launched, str], None]] = []
        self._ended: list[tuple[Launched, str]] = []

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        """Have ``on_exit`` called for each worker that has ended or ends."""
        with self._lock:
            self._watchers.append(on_exit)
            ended = list(self._ended)
        for each in ended:
            on_exit(*each)

    def report(self, worker: Launched, reason: str) -> None:
        """Take note that a worker has ended, and tell. The first reason stands."""
        with self._lock:
            if any(each is worker for each, _ in self._ended):
                return
            self._ended.append((worker, reason))
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(worker, reason)
