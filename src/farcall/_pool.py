"""WorkerPool: workers that take one call at a time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ._errors import ProcessExited
from ._node.current import current_node
from ._node.node import Node
from ._node.slots import Slot
from ._remote.calls import Place
from ._remote.future import Future
from ._types import ProcessId

_NO_WORKERS = "this pool has no workers: add some with addprocs(n), or with put(pid)"


class _Waiter:
    """A call or a ``take`` that waits for a worker. ``serve`` gets one, once, unless ``withdraw`` came first."""

    def __init__(self, serve: Callable[[ProcessId], None], fail: Callable[[Exception], None]) -> None:
        self._serve = serve
        self._fail = fail
        self._lock = threading.RLock()  # reentrant: to serve may be to fail, and to withdraw
        self._open = True

    def withdraw(self) -> bool:
        """Wait no more; false if a worker has been given."""
        with self._lock:
            was_open, self._open = self._open, False
            return was_open

    def give(self, pid: ProcessId) -> bool:
        """Take a worker; false if it is not wanted any more."""
        with self._lock:
            if not self.withdraw():
                return False
            self._serve(pid)
            return True

    def give_up(self, error: Exception) -> None:
        """Hear that no worker will come."""
        with self._lock:
            if self.withdraw():
                self._fail(error)


class WorkerPool(Place):
    """Workers that are free or busy. Any thread of the process that made it.

    ``WorkerPool()`` is live: it has all workers, those that join later too. ``WorkerPool(pids)`` has these.
    ``spawnat(pool, …)`` takes the worker that has been free for longest; if there is none, the call waits its turn.
    Workers that are gone leave the pool by themselves. Julia: the same name.
    """

    def __init__(self, pids: Iterable[ProcessId] | None = None) -> None:
        self._node: Node = current_node()
        self._live = pids is None
        self._serving = False  # a thread gives out workers, and goes on until there is nothing more to give
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self._members: dict[ProcessId, None] = {}  # in the order in which they came
        self._free: deque[ProcessId] = deque()
        self._waiting: deque[_Waiter] = deque()
        for pid in [] if pids is None else list(pids):
            self._node.peers.get(pid)
            self._members[pid] = None
            self._free.append(pid)
        self._node.observe(self)
        self.on_members_changed()

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"<WorkerPool {self.workers()}: {len(self._free)} free, {len(self._waiting)} waiting>"

    def workers(self) -> list[ProcessId]:
        """Return the ids of the members."""
        return list(self._members)

    def isready(self) -> bool:
        """Return whether ``take`` would not block."""
        return bool(self._free)

    def take(self, timeout: float | None = None) -> ProcessId:
        """Take a free worker out of the pool, to be given back with ``put``.

        Blocks; TimeoutError after ``timeout`` seconds, RuntimeError if the pool has no members.
        """
        slot = Slot()
        waiter = self._wait_in_line(lambda pid: slot.finish(pid, None), lambda error: slot.finish(None, error))
        try:
            self._node.reader.wait(slot, None, None if timeout is None else time.monotonic() + timeout)
        except BaseException:
            if not waiter.withdraw() and slot.error is None:
                self.put(slot.value)
            raise
        pid: ProcessId = slot.outcome()
        return pid

    def put(self, pid: ProcessId) -> None:
        """Give a worker back, or add one. An id that never was is a ValueError.

        A worker that is gone, or finishes what it has because it is about to end, is dropped.
        """
        with self._lock:
            is_new = pid not in self._members
            if self._node.peers.takes_work(pid) and pid not in self._free:
                self._members[pid] = None
                self._free.append(pid)
        self._serve()
        if is_new:
            self._node.changed()  # a map over this pool may want to know

    def place(self, future: Future[Any], begin: Callable[[ProcessId], None]) -> None:
        def serve(pid: ProcessId) -> None:
            try:
                begin(pid)
            except ProcessExited:
                try:
                    self._wait_in_line(serve, fail)  # it has not begun: another worker takes it
                except RuntimeError as error:
                    fail(error)
            except BaseException as error:
                future.finish(None, error)
                self.put(pid)
            else:
                future.add_done_callback(lambda done: self.put(pid))

        def fail(error: Exception) -> None:
            future.finish(None, error)

        waiter = self._wait_in_line(serve, fail)
        if not future.settled:
            future.add_done_callback(lambda done: waiter.withdraw())  # cancelled in the queue

    def _wait_in_line(self, serve: Callable[[ProcessId], None], fail: Callable[[Exception], None]) -> _Waiter:
        waiter = _Waiter(serve, fail)
        with self._lock:
            if not self._members:
                raise RuntimeError(_NO_WORKERS)
            self._waiting.append(waiter)
        self._serve()
        return waiter

    def _serve(self) -> None:
        """Give free workers to those who wait, in both orders; one thread does it for all."""
        with self._lock:
            if self._serving:
                return
            self._serving = True
        try:
            while (pair := self._next_pair()) is not None:
                pid, waiter = pair
                if not waiter.give(pid):
                    self._take_back(pid)
        except BaseException:
            self._serving = False
            raise

    def _next_pair(self) -> tuple[ProcessId, _Waiter] | None:
        with self._lock:
            if self._free and self._waiting:
                return self._free.popleft(), self._waiting.popleft()
            self._serving = False
            return None

    def _take_back(self, pid: ProcessId) -> None:
        with self._lock:
            if pid in self._members:
                self._free.appendleft(pid)

    def on_members_changed(self) -> None:
        """Take in who has joined, if this pool is live, and drop who has left."""
        with self._lock:
            alive = self._node.peers.willing()
            for pid in [pid for pid in self._members if pid not in alive]:
                del self._members[pid]
            self._free = deque(pid for pid in self._free if pid in self._members)
            if self._live:
                joined = [pid for pid in alive if pid not in self._members and pid != 1]
                if not joined and not self._members and not self._node.leaving:
                    joined = [self._node.pid]  # alone, this process is the worker
                if self._node.pid in self._members and joined:
                    self._members.pop(self._node.pid)
                    self._free = deque(pid for pid in self._free if pid != self._node.pid)
                self._members.update(dict.fromkeys(joined))
                self._free.extend(joined)
            orphans = [] if self._members else list(self._waiting)
        self._serve()
        for waiter in orphans:
            waiter.give_up(RuntimeError(_NO_WORKERS))


def default_worker_pool() -> WorkerPool:
    """Return the live pool of this process. Julia: the same name."""
    node = current_node()
    if node.default_pool is None:
        node.default_pool = WorkerPool()
    pool: WorkerPool = node.default_pool
    return pool
