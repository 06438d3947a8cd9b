"""The queue behind a RemoteChannel: who waits, who gets what, and what is out of the queue but not yet in hand.

A plain object: an event goes in, and what must be done comes out, as a list (see ``Todo``). It knows no socket, no
thread and no clock, and never looks at an item.

An item is *lent* when it leaves for a consumer, and gone when that one confirms that it is in the user's hands (of
a lease: that the user is through with it). If the consumer dies, gives up or is interrupted before, the item returns
to its old place. A consumer that is quick and alone gets several at once; those that it has not handed out are
recalled before anybody else gets one, so the order is the same for all. A producer that is quick gets *credits*,
places of the queue kept free for it: what it puts there needs no answer. They are recalled when somebody else waits
for room, and when the queue closes.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from .._types import CallId, ProcessId

Key = tuple[ProcessId, CallId]  # of an operation: who asked, and under which number


_ALONE = 16  # takes of one process in a row, then it may get several at once


class Asker(Protocol):
    """Who waits for the outcome of an operation."""

    pid: ProcessId
    number: CallId


class Entry:
    """An item of the queue. ``serial`` is its place, ``deliveries`` how often it has been handed out."""

    __slots__ = ("deliveries", "item", "serial")

    def __init__(self, serial: int, item: Any) -> None:
        self.serial = serial
        self.item = item
        self.deliveries = 0


class Accept(NamedTuple):
    """Tell who puts that the item is in, with so many credits for more; or who closes that it is done."""

    asker: Any
    credits: int


class Lend(NamedTuple):
    """Hand entries to who takes."""

    asker: Any
    entries: list[Entry]
    lease: bool


class Show(NamedTuple):
    """Let who peeks see an item."""

    asker: Any
    item: Any


class Refuse(NamedTuple):
    """Tell an asker that the queue is closed, or that it has withdrawn."""

    asker: Any
    closed: bool


class Recall(NamedTuple):
    """Ask a process to return what it has not handed out, and its credits; also those on their way to it."""

    pid: ProcessId


Todo = Accept | Lend | Show | Refuse | Recall


class _Putter(NamedTuple):
    asker: Any
    item: Any
    wish: int  # credits


class _Taker(NamedTuple):
    asker: Any
    most: int  # entries
    lease: bool


class _Peeker(NamedTuple):
    asker: Any
    blindly: bool


class _Loan:
    """Entries that are out, by their numbers in the loan, and come back unless they are confirmed."""

    __slots__ = ("entries", "lease", "recalled", "several")

    def __init__(self, entries: Iterable[Entry], lease: bool) -> None:
        self.entries = dict(enumerate(entries))
        self.lease = lease
        self.several = len(self.entries) > 1
        self.recalled = False


class Queue:
    """Items in their order, for any number of producers and consumers, served in the order in which they came.

    ``capacity`` bounds what has been put and is not yet in a consumer's hands. 0: a put waits for its consumer.
    """

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.isopen = True
        self.entries: deque[Entry] = deque()
        self._serial = 0
        self._putters: deque[_Putter] = deque()
        self._takers: deque[_Taker] = deque()
        self._peekers: list[_Peeker] = []
        self._closers: list[Any] = []
        self._loans: dict[Key, _Loan] = {}
        self._ahead = 0  # lent and not confirmed, without leases
        self.several = 0  # of these, lent several at once
        self._leased = 0
        self._credits: dict[ProcessId, int] = {}  # no zeros
        self._reserved = 0  # their sum
        self._granted: set[ProcessId] = set()  # who got credits and has not been asked for them
        self._last_consumer: ProcessId = 0
        self._row = 0  # of its takes

    def __repr__(self) -> str:
        return f"<Queue: {len(self)}/{self.capacity}, {'open' if self.isopen else 'closed'}>"

    def __len__(self) -> int:
        return len(self.entries) + self._ahead

    def isready(self) -> bool:
        """Return whether a take would not have to wait."""
        return bool(self.entries or self.several or (self.capacity == 0 and self._putters))

    def is_idle(self) -> bool:
        """Return whether nobody waits and nothing must be watched, so that an item can just come and go."""
        return self.isopen and not (self._takers or self._putters or self._peekers)

    def has_room(self) -> bool:
        """Return whether one more item may come in."""
        if self.capacity == 0:
            return bool(self._takers)
        return len(self.entries) + self._ahead + self._reserved < self.capacity

    def involved(self) -> set[ProcessId]:
        """Return the processes that wait for something or have something of this queue."""
        askers: list[Any] = [each[0] for each in (*self._putters, *self._takers, *self._peekers)] + self._closers
        waiting: set[ProcessId] = {asker.pid for asker in askers}
        return waiting | {pid for pid, _ in self._loans} | set(self._credits)

    # Events

    def put(self, asker: Asker, item: Any, wish: int = 0) -> list[Todo]:
        """Take an item in as soon as there is room, and grant up to ``wish`` credits for more if nobody else waits."""
        if not self.isopen:
            return [Refuse(asker, True)]
        self._putters.append(_Putter(asker, item, wish))
        return self._advance()

    def deposit(self, pid: ProcessId, item: Any) -> list[Todo]:
        """Take in an item whose place was kept, also if the queue is about to close."""
        self._take_credits(pid, 1)
        self.append(item)
        return self._advance()

    def append(self, item: Any) -> None:
        """Put an item in; the caller sees to those who wait for it."""
        self._serial += 1
        self.entries.append(Entry(self._serial, item))

    def restore(self, entry: Entry) -> list[Todo]:
        """Put an entry back that was taken out, to its old place."""
        self._insert(entry)
        return self._advance()

    def take(self, asker: Asker, most: int = 1, lease: bool = False) -> list[Todo]:
        """Lend an entry as soon as there is one; several if they are there, wished for and needed by nobody else."""
        self._row = self._row + 1 if asker.pid == self._last_consumer else 0
        self._last_consumer = asker.pid
        self._takers.append(_Taker(asker, most, lease))
        return self._advance()

    def peek(self, asker: Asker, blindly: bool = False) -> list[Todo]:
        """Show the first item as soon as there is one; ``blindly``: say that there is one."""
        self._peekers.append(_Peeker(asker, blindly))
        return self._advance()

    def confirm(self, key: Key, place: int = 0) -> list[Todo]:
        """An entry of a loan is in its user's hands, or a lease is done. Of one that was lost: nothing."""
        loan = self._loans.get(key)
        if loan is None or loan.entries.pop(place, None) is None:
            return []
        self._count_out(loan, -1)
        if not loan.entries:
            del self._loans[key]
        return self._advance()

    def give_back(self, pid: ProcessId, entries: Iterable[tuple[CallId, int]], credits: int) -> list[Todo]:
        """A process returns entries, named by loan and number in it, to their places, and so many credits."""
        for number, place in entries:
            self._take_back((pid, number), place)
        self._take_credits(pid, credits)
        return self._advance()

    def withdraw(self, key: Key) -> list[Todo]:
        """End an operation that its asker has given up: who waits is refused, what was lent returns."""
        todo: list[Todo] = []
        waiting: Any
        for waiting in (self._putters, self._takers, self._peekers):
            for each in [each for each in waiting if (each.asker.pid, each.asker.number) == key]:
                waiting.remove(each)
                todo.append(Refuse(each.asker, False))
        self._closers = [each for each in self._closers if (each.pid, each.number) != key]
        self._take_all_back(key)
        return todo + self._advance()

    def close(self, asker: Asker | None = None) -> list[Todo]:
        """Let nothing more in, but for what has a place already. The asker is answered when all of that is known."""
        self.isopen = False
        if asker is not None:
            self._closers.append(asker)
        return self._advance()

    def lose(self, pid: ProcessId) -> list[Todo]:
        """A process is gone: it waits no more, and what it was lent returns."""
        self._putters = deque(each for each in self._putters if each.asker.pid != pid)
        self._takers = deque(each for each in self._takers if each.asker.pid != pid)
        self._peekers = [each for each in self._peekers if each.asker.pid != pid]
        self._closers = [each for each in self._closers if each.pid != pid]
        self._take_credits(pid, self._credits.get(pid, 0))
        for key in [key for key in self._loans if key[0] == pid]:
            self._take_all_back(key)
        return self._advance()

    # What follows

    def _advance(self) -> list[Todo]:
        """Do what can be done now."""
        todo: list[Todo] = []
        while True:
            if self._takers and self.entries and not self.several:
                self._lend(todo)
            elif self._putters and self.isopen and self.has_room():
                self._admit(todo)
            else:
                break
        if self._peekers and self.isready() and not self.several:
            item = self.entries[0].item if self.entries else self._putters[0].item
            todo += [Show(asker, None if blindly else item) for asker, blindly in self._peekers]
            self._peekers.clear()
        if not self.isopen:
            self._wind_up(todo)
        if self.several and (self._takers or self._peekers):
            self._recall_loans(todo)
        if self._granted and (self._putters or not self.isopen):
            todo += [Recall(pid) for pid in self._granted]
            self._granted.clear()
        return todo

    def _lend(self, todo: list[Todo]) -> None:
        taker = self._takers.popleft()
        count = 1
        if taker.most > 1 and self._row > _ALONE and not (taker.lease or self._takers):
            count = min(taker.most, len(self.entries))
        entries = [self.entries.popleft() for _ in range(count)]
        if taker.lease:
            entries[0].deliveries += 1  # what is taken comes back only if nobody has seen it
        loan = self._loans[taker.asker.pid, taker.asker.number] = _Loan(entries, taker.lease)
        self._count_out(loan, count)
        todo.append(Lend(taker.asker, entries, taker.lease))

    def _admit(self, todo: list[Todo]) -> None:
        asker, item, wish = self._putters.popleft()
        self.append(item)
        granted = 0
        if wish and not self._putters:
            room = self.capacity - len(self) - self._reserved
            granted = min(wish, wish if room == math.inf else max(0, int(room) // 2))
        if granted:
            self._credits[asker.pid] = self._credits.get(asker.pid, 0) + granted
            self._reserved += granted
            self._granted.add(asker.pid)
        todo.append(Accept(asker, granted))

    def _wind_up(self, todo: list[Todo]) -> None:
        """Refuse those who wait for what can come no more."""
        todo += [Refuse(each.asker, True) for each in self._putters]
        self._putters.clear()
        if self._reserved:
            return
        todo += [Accept(asker, 0) for asker in self._closers]
        self._closers.clear()
        if self.entries or self._ahead:
            return
        todo += [Refuse(each.asker, True) for each in self._peekers]
        self._peekers.clear()
        left: deque[_Taker] = deque()
        for taker in self._takers:
            if taker.lease and self._leased:
                left.append(taker)  # an entry may yet come back
            else:
                todo.append(Refuse(taker.asker, True))
        self._takers = left

    def _recall_loans(self, todo: list[Todo]) -> None:
        """Have entries come back that are not handed out yet. Asking once is enough: the rest is in users' hands."""
        self._row = 0
        holders = set()
        for (pid, _), loan in self._loans.items():
            if loan.several and not loan.recalled:
                loan.recalled = True
                holders.add(pid)
        self._granted -= holders
        todo += [Recall(pid) for pid in holders]

    def _count_out(self, loan: _Loan, change: int) -> None:
        if loan.lease:
            self._leased += change
            return
        self._ahead += change
        if loan.several:
            self.several += change

    def _take_all_back(self, key: Key) -> None:
        loan = self._loans.get(key)
        for place in sorted(loan.entries if loan is not None else (), reverse=True):  # the last first: see _insert
            self._take_back(key, place)

    def _take_back(self, key: Key, place: int) -> None:
        loan = self._loans.get(key)
        entry = loan.entries.pop(place, None) if loan is not None else None
        if loan is None or entry is None:
            return
        self._insert(entry)
        self._count_out(loan, -1)
        if not loan.entries:
            del self._loans[key]

    def _insert(self, entry: Entry) -> None:
        """Put an entry back where it was; most belong in front."""
        place = 0
        while place < len(self.entries) and self.entries[place].serial < entry.serial:
            place += 1
        self.entries.insert(place, entry)

    def _take_credits(self, pid: ProcessId, count: int) -> None:
        held = self._credits.pop(pid, 0)
        left = max(0, held - count)
        if left:
            self._credits[pid] = left
        else:
            self._granted.discard(pid)
        self._reserved -= held - left
