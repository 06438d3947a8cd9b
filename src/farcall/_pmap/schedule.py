"""Which items go where, and when. A plain object: no socket, no thread, no clock of its own.

Events are told by calling ``joined``, ``left``, ``lost``, ``answered``, ``gave_back``, ``refused``, ``retry``; after
that ``next`` is asked for instructions until it has none. Times are seconds of whatever clock the caller has.

Items go in batches. How many is a guess at what suits: enough that the work in a batch outweighs its message, few
enough that a batch is short, and near the end ever fewer, so that workers finish together. A wrong guess is put
right later: when a worker has nothing to do and there is nothing more to give, the oldest batch is called in, and
whoever has it gives back what it has not begun.

When a worker dies nobody knows which item of its batches it was. They run again in smaller batches, each alone on its
worker: the items that were there at a first death in batches of their square root, those that were there at a
second one by one. So whoever is there at a third is alone, and is to blame.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._types import ProcessId

STRIKES = 3
_IN_FLIGHT = 2  # batches per worker: one runs, and one is there when it ends
_GROWTH = 8  # at most this many times the longest batch that came back
_MEMORY = 0.7  # weight of what was known of an item's time against one more batch
_WORTH = 1e-3  # seconds of work; less is not worth calling in
_PATIENCE = 10e-3  # seconds after which a batch is called in whatever it was thought to be worth
_SHARE = 3  # a batch is at most this part of one worker's share of what is left


@dataclass(frozen=True)
class Policy:
    """How large batches are. Times in seconds."""

    batch_size: int | None = None
    """If given, this."""

    shortest: float = 4e-3
    """A batch should take longer, so that its message does not matter."""

    longest: float = 0.1
    """A batch should not take longer, so that results come and memory is bounded."""

    most: int = 1 << 20
    """Items in a batch."""

    window: int | None = None
    """How many batches for each worker may be drawn and not consumed yet; None is no limit."""


class Batch:
    """Some items in a row, and what is known of them."""

    __slots__ = ("items", "number", "pid", "sent", "start", "strikes", "tries")

    def __init__(self, start: int, items: Sequence[Any], strikes: int = 0, tries: int = 0) -> None:
        self.start = start
        self.items = items
        self.strikes = strikes  # deaths of workers that had it
        self.tries = tries  # of its only item, that failed
        self.number = 0  # while it is with a worker, since a time
        self.pid: ProcessId = 0
        self.sent = 0.0

    def __repr__(self) -> str:
        return f"<Batch [{self.start}:{self.stop}], {self.strikes} strikes, {self.tries} tries>"

    @property
    def stop(self) -> int:
        return self.start + len(self.items)

    def part(self, first: int, stop: int) -> "Batch":
        """Return some of its items as a batch of the same history."""
        return Batch(self.start + first, self.items[first:stop], self.strikes, self.tries)


class Send(NamedTuple):
    """Send a batch to the worker that it names."""

    batch: Batch


class Recall(NamedTuple):
    """Ask a worker to give back what it has not begun."""

    pid: ProcessId


class _Worker:
    """What a worker has in hand."""

    __slots__ = ("batches", "recalled")

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.recalled = False  # it gets nothing more until it has answered everything


class Schedule:
    """The items of one map. ``draw(k)`` returns up to ``k`` new ones in a row, none when there are no more.

    ``size`` is how many there will be, if that is known, ``drawn`` how many have been drawn before.
    """

    def __init__(
        self, draw: Callable[[int], Sequence[Any]], policy: Policy, size: int | None = None, drawn: int = 0
    ) -> None:
        self._draw = draw
        self._policy = policy
        self._size = size
        self._drawn = drawn
        self._exhausted = False
        self.consumed = 0  # items whose results have left; only a window asks
        self._workers: dict[ProcessId, _Worker] = {}
        self._idle: dict[ProcessId, None] = {}  # with nothing in hand, the longest idle first
        self._hungry: dict[ProcessId, None] = {}  # with room for another batch
        self._flying: dict[int, Batch] = {}
        self._recallable: dict[int, Batch] = {}  # some of those, the oldest first
        self._number = 0
        self._again: deque[Batch] = deque()  # given back, or lost
        self._suspects: deque[Batch] = deque()  # lost, and perhaps to blame
        self._later: list[tuple[float, int, Batch]] = []  # to be tried again at a time; a heap
        self._look_again: float | None = None  # whether a batch is to be called in
        self._seconds = self._items = 0.0  # that went into the estimate of an item's time
        self._largest = 0  # items in a batch that came back

    def __repr__(self) -> str:
        return f"<Schedule: {self._drawn} items drawn, {len(self._flying)} batches with {len(self._workers)} workers>"

    @property
    def finished(self) -> bool:
        """Whether every item has been answered."""
        return self._exhausted and not (self._flying or self._again or self._suspects or self._later)

    @property
    def workers(self) -> list[ProcessId]:
        """Those that get batches."""
        return list(self._workers)

    @property
    def in_flight(self) -> int:
        """How many batches are with workers."""
        return len(self._flying)

    def next_time(self) -> float | None:
        """Return when to ask again although nothing has happened."""
        times = [self._later[0][0]] if self._later else []
        return min(times if self._look_again is None else [*times, self._look_again], default=None)

    # Events

    def joined(self, pid: ProcessId) -> None:
        """A worker is there to be used."""
        worker = self._workers[pid] = _Worker()
        worker.batches = [each for each in self._flying.values() if each.pid == pid]  # it had left, and is back
        if not worker.batches:
            self._idle[pid] = None

    def left(self, pid: ProcessId) -> None:
        """A worker gets nothing more. What it has in hand will be answered, or lost."""
        self._workers.pop(pid, None)
        self._idle.pop(pid, None)
        self._hungry.pop(pid, None)

    def lost(self, pid: ProcessId, *, blame: bool = True) -> list[Batch]:
        """A worker will answer no more; return those of its items, each a batch, that have killed enough workers.

        Without ``blame`` it went for reasons of its own.
        """
        self.left(pid)
        condemned = []
        for batch in [each for each in self._flying.values() if each.pid == pid]:
            self._land(batch)
            if not blame or not len(batch.items):
                self._put_back(batch)
                continue
            batch.strikes += 1
            if batch.strikes >= STRIKES and len(batch.items) == 1:
                condemned.append(batch)
            else:
                size = 1 if batch.strikes > 1 else math.isqrt(len(batch.items) - 1) + 1
                steps = range(0, len(batch.items), size)
                self._suspects.extend(batch.part(first, first + size) for first in steps)
        return condemned

    def answered(self, number: int, done: int, seconds: float) -> Batch | None:
        """A worker has done the first items of a batch, and gives the others back; None if it is not awaited."""
        batch = self._flying.get(number)
        if batch is None:
            return None
        self._land(batch)
        if done < len(batch.items):
            self._put_back(batch.part(done, len(batch.items)))
        if done:
            self._seconds = self._seconds * _MEMORY + seconds
            self._items = self._items * _MEMORY + done
            self._largest = max(self._largest, done)
        return batch

    def gave_back(self, number: int, kept: int) -> None:
        """A worker has cut a batch short, which it will answer when the last of the items that it kept is done."""
        batch = self._flying.get(number)
        if batch is not None and kept < len(batch.items):
            self._put_back(batch.part(kept, len(batch.items)))
            batch.items = batch.items[:kept]

    def refused(self, number: int) -> Batch | None:
        """A batch could not begin: its items go one by one. Return it if it is one item already."""
        batch = self._flying.get(number)
        if batch is None:
            return None
        self._land(batch)
        if len(batch.items) == 1:
            return batch
        self._again.extendleft(batch.part(first, first + 1) for first in reversed(range(len(batch.items))))
        return None

    def retry(self, batch: Batch, time: float) -> None:
        """Try a batch of one item again at a time."""
        self._number += 1
        heapq.heappush(self._later, (time, self._number, batch))

    def again(self, batch: Batch) -> None:
        """Items that were drawn before are to be done."""
        self._again.append(batch)

    def _land(self, batch: Batch) -> None:
        del self._flying[batch.number]
        self._recallable.pop(batch.number, None)
        worker = self._workers.get(batch.pid)
        if worker is None:
            return
        worker.batches.remove(batch)
        if not worker.batches:
            worker.recalled = False
            self._hungry.pop(batch.pid, None)
            self._idle[batch.pid] = None
        elif not worker.recalled:
            self._hungry[batch.pid] = None

    def _put_back(self, batch: Batch) -> None:
        if len(batch.items):
            (self._suspects if batch.strikes else self._again).appendleft(batch)

    # Instructions

    def next(self, now: float) -> Send | Recall | None:
        """Return what to do next, None if there is nothing to do until something happens."""
        self._look_again = None
        while self._later and self._later[0][0] <= now:
            self._put_back(heapq.heappop(self._later)[2])
        if self._idle:
            batch = self._take_suspect() or self._take()
            if batch is not None:
                return self._send(next(iter(self._idle)), batch, now)
            return self._recall(now)
        # Who has two batches is never idle, and only then gets a suspect; and while no item has been done, another
        # worker that is about to join may have better use for a second.
        if self._hungry and not self._suspects and self._items:
            batch = self._take()
            if batch is not None:
                return self._send(next(iter(self._hungry)), batch, now)
        return None

    def _take_suspect(self) -> Batch | None:
        return self._suspects.popleft() if self._suspects else None

    def _take(self) -> Batch | None:
        """Return items that nobody has, given back or new ones."""
        if self._again:
            return self._take_again()
        if self._exhausted:
            return None
        size = self._batch_size()
        if self._policy.window is not None:
            size = min(size, self._room(size))
        if size <= 0:
            return None
        items = self._draw(size)
        if not len(items):
            self._exhausted = True
            return None
        batch = Batch(self._drawn, items)
        self._drawn += len(items)
        return batch

    def _take_again(self) -> Batch:
        batch = self._again.popleft()
        size = self._batch_size()
        if size < len(batch.items):
            self._again.appendleft(batch.part(size, len(batch.items)))
            batch = batch.part(0, size)
        return batch

    def _room(self, size: int) -> int:
        """Return how many items the window lets in, to be drawn in batches of a size."""
        assert self._policy.window is not None
        return self._policy.window * len(self._workers) * size - (self._drawn - self.consumed)

    def _batch_size(self) -> int:
        policy = self._policy
        if policy.batch_size is not None:
            return policy.batch_size
        if not self._items:
            return 1
        each = max(self._seconds / self._items, 1e-9)
        size = policy.longest / each
        if self._size is not None:
            left = max(0, self._size - self._drawn) + (len(self._again[0].items) if self._again else 0)
            size = min(size, max(left / (_SHARE * len(self._workers)), policy.shortest / each))
        return max(1, min(int(size), self._largest * _GROWTH, policy.most))

    def _send(self, pid: ProcessId, batch: Batch, now: float) -> Send:
        worker = self._workers[pid]
        self._number += 1
        batch.number, batch.pid, batch.sent = self._number, pid, now
        worker.batches.append(batch)
        self._flying[batch.number] = batch
        self._idle.pop(pid, None)
        self._hungry.pop(pid, None)
        if not batch.strikes and len(worker.batches) < _IN_FLIGHT:
            self._hungry[pid] = None
        if len(batch.items) > 1 or len(worker.batches) > 1:
            self._recallable[batch.number] = batch
        return Send(batch)

    def _recall(self, now: float) -> Recall | None:
        """Call in the oldest batch that may have something to give back, when there is nothing else to give."""
        if not self._exhausted:
            return None
        while self._recallable:
            batch = next(iter(self._recallable.values()))
            worker = self._workers.get(batch.pid)
            if worker is None or worker.recalled:
                del self._recallable[batch.number]
                continue
            if now < batch.sent + _PATIENCE and self._items * _WORTH > self._seconds * len(batch.items):
                self._look_again = batch.sent + _PATIENCE
                return None
            worker.recalled = True
            self._hungry.pop(batch.pid, None)
            for each in worker.batches:
                self._recallable.pop(each.number, None)
            return Recall(batch.pid)
        return None
