"""What a process has of a channel: items that it was lent and has not handed out, places that are kept for it.

One account per process and channel, shared by all its RemoteChannel objects. Everything that an operation was
promised is accounted for: whoever gives an operation up, by its timeout or an interrupt, withdraws it, whether or
not its outcome was on its way already; from then on the owner knows what became of it.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .._errors import FarcallError, ProcessExited
from .._node.current import running_call, shielded
from .._node.executor import copy_buffer
from .._node.link import Link
from .._node.node import Node
from .._node.prompt import await_outcome, notify, notify_promptly, operate
from .._node.slots import Slot
from .._types import CallId, ProcessId, RefId
from .._wire.frames import Frame
from .._wire.pickles import Parcel, is_plain
from . import keeper as owner
from .keeper import Keeper, Withdrawn
from .queue import Entry

_CERTAINTY = 5.0  # seconds that a put which is given up waits to hear whether it has happened
_QUICK = 2e-3  # seconds between two exchanges with the owner; who is back sooner gets more at a time
_MOST = 256  # items or credits at a time: more saves little, and delays others who want them

_clock = time.perf_counter


class Account:
    """The operations of this process on a channel, and what it has of it. Any thread."""

    def __init__(self, node: Node, pid: ProcessId, ref: RefId) -> None:
        self._node = node
        self._owner = pid
        self._ref = ref
        self.keeper: Keeper | None = owner.keeper_of(node, ref) if pid == node.pid else None
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self.inbox: deque[tuple[CallId, int, Any]] = deque()  # lent and not handed out: loan, number in it, item
        self._recalls = 0  # so far; who was promised more before the last one returns it on arrival
        self._credits: list[None] = []  # as many as there are: to pop is one step
        self._wish = 0
        self._most = 1
        self._put_at = self._took_at = 0.0

    def __del__(self) -> None:
        if self.inbox or self._credits:
            self._node.references.later(self._give_back_later())

    def _give_back_later(self) -> Callable[[], None]:
        node, pid, ref = self._node, self._owner, self._ref
        entries = tuple([(loan, place) for loan, place, _ in self.inbox])
        credits = len(self._credits)
        return lambda: tell(node, pid, ref, owner.give_back, entries, credits)

    # Exchanges with the owner

    def send(self, target: Slot, operation: Callable[..., None], *args: Any) -> tuple[Link | None, CallId]:
        """Have an operation run on the owner."""
        return operate(self._node, self._owner, target, operation, *self._ref, *args)

    def tell(self, operation: Callable[..., None], *args: Any) -> None:
        """Have an operation run on the owner that has no outcome; one that is gone needs no news."""
        tell(self._node, self._owner, self._ref, operation, *args)

    def ask(self, operation: Callable[..., None], *args: Any, timeout: float | None = None) -> Any:
        """Have an operation run on the owner and return its outcome."""
        with shielded():
            slot, _ = self.exchange(operation, *args, timeout=timeout)
            return self._node.open_slot(slot)

    def exchange(self, operation: Callable[..., None], *args: Any, timeout: float | None = None) -> tuple[Slot, CallId]:
        """Have an operation run on the owner and wait for its outcome; given up, it is withdrawn. Shielded."""
        slot = _Outcome()
        link, number = self.send(slot, operation, *args)
        try:
            self._wait(slot, link, timeout)
        except BaseException as error:
            if not (slot.settled and isinstance(error, TimeoutError)):
                if link is not None:
                    self._node.cancel(link, number)
                self.tell(owner.withdraw, number)
                raise
        return slot, number

    def _wait(self, slot: "_Outcome", link: Link | None, timeout: float | None) -> None:
        """Wait for an outcome; shielded before and after, whatever happens, not in between."""
        if link is None and self.keeper is not None:
            # What we wait for comes from there, probably: read it ourselves.
            slot.reads = link = self._node.links.get(self.keeper.partner)
        await_outcome(self._node, slot, link, None if timeout is None else time.monotonic() + timeout)

    # Putting

    def put(self, item: Any, timeout: float | None) -> None:
        """Append an item and wait until the owner has it."""
        if self.keeper is not None:
            with shielded():
                if not self.keeper.put_at_once(item):
                    self._put(item, 0, timeout)
            return
        content = item if is_plain(item) else Parcel(item)
        with shielded():
            try:
                self._credits.pop()
                notify(self._node, self._owner, owner.deposit, *self._ref, content)
            except (IndexError, OSError):  # no credit, or the connection broke: what follows says why
                self._put(content, self._next_wish(), timeout)

    def _put(self, content: Any, wish: int, timeout: float | None) -> None:
        slot, recalls = _Outcome(), self._recalls
        link, number = self.send(slot, owner.put, content, wish)
        try:
            self._wait(slot, link, timeout)
        except BaseException as error:
            if not self._is_known(slot, link, number, wish):
                raise
            try:
                self._open_put(slot, recalls)
            except (Withdrawn, FarcallError):
                raise error from None
            if not isinstance(error, TimeoutError):
                raise
        else:
            self._open_put(slot, recalls)
            self._put_at = _clock()

    def _is_known(self, slot: "_Outcome", link: Link | None, number: CallId, wish: int) -> bool:
        """Withdraw a put; return whether the owner says in time what has become of it."""
        self.tell(owner.withdraw, number)
        try:
            self._wait(slot, link, _CERTAINTY)
        except BaseException as error:
            if self._node.cancel(link, number):  # the owner answers nobody; when it goes on, it will withdraw
                self.tell(owner.give_back, (), wish)
                if isinstance(error, TimeoutError):
                    return False
                raise
            self._wait(slot, link, None)  # it is just coming
        return True

    def _open_put(self, slot: Slot, recalls: int) -> None:
        """Raise why a put was refused, or keep the credits that came with its acceptance."""
        credits = self._node.open_slot(slot)
        self._credits += [None] * credits
        if credits and self._recalls != recalls:
            self.return_all()

    def _next_wish(self) -> int:
        """Return how many credits to ask for: more each time as long as puts follow each other quickly."""
        quick = _clock() - self._put_at < _QUICK
        self._wish = min(2 * self._wish + 1, _MOST) if quick else 0
        return self._wish

    # Taking

    def take(self, timeout: float | None) -> Any:
        """Remove the first item and return it."""
        with shielded():
            if self.keeper is not None:
                entry = self.keeper.take_at_once()
                if entry is not None:
                    return self._open_entry(entry)
            elif self.inbox:
                with contextlib.suppress(IndexError):
                    return self._open_next()
            recalls = self._recalls
            slot, number = self.exchange(owner.take, self._next_appetite(), timeout=timeout)
            return self._receive(slot, number, recalls)

    async def take_async(self) -> Any:
        """Remove the first item and return it, without blocking the event loop."""
        if self.keeper is None and self.inbox:
            with contextlib.suppress(IndexError), shielded():
                return self._open_next()
        arrival, recalls = _Arrival(), self._recalls
        link: Link | None = None
        number = 0
        try:
            with shielded():
                link, number = self.send(arrival, owner.take, 1)
                if link is not None:
                    self._node.reader.attend(link)
            await arrival.future
        except BaseException:  # cancelled, or its loop ends
            with shielded():
                if link is not None:
                    self._node.cancel(link, number)
                self.tell(owner.withdraw, number)
            raise
        with shielded():
            return self._receive(arrival, number, recalls)

    def _receive(self, slot: Slot, number: CallId, recalls: int) -> Any:
        """Hand out the first item of a loan, and keep the others ready. Shielded."""
        items = self._node.open_slot(slot)
        first = items[0].item if self.keeper is not None else items[0]
        if len(items) > 1:
            with self._lock:
                self.inbox.extend([(number, place, item) for place, item in enumerate(items) if place])
            if self._recalls != recalls:
                self.return_all()
        value = self._open(number, 0, first)
        self.tell(owner.confirm, number, 0)
        self._took_at = _clock()
        return value

    def _open_next(self) -> Any:
        """Hand out an item that is ready; IndexError if there is none. Shielded."""
        with self._lock:
            loan, place, item = self.inbox.popleft()
        value = self._open(loan, place, item)
        self.tell(owner.confirm, loan, place)
        return value

    def _open(self, loan: CallId, place: int, item: Any) -> Any:
        """Return the value of an item; if that fails, or an interrupt has come meanwhile, the item goes back."""
        if type(item) is not Parcel:
            return item
        try:
            value = item.open()
            call = running_call()
            if call is not None:
                call.check()
        except BaseException:
            self.return_all((loan, place))
            raise
        return value

    def _open_entry(self, entry: Entry) -> Any:
        """Return an item that was taken out of the queue of this process."""
        assert self.keeper is not None
        try:
            return entry.item.open() if type(entry.item) is Parcel else entry.item
        except BaseException:
            self.keeper.handle(self.keeper.queue.restore, entry)
            raise

    def _next_appetite(self) -> int:
        """Return how many items to ask for: more each time as long as they are handed out quickly."""
        if self.keeper is not None:
            return 1
        self._most = min(2 * self._most, _MOST) if _clock() - self._took_at < _QUICK else 1
        return self._most

    def return_all(self, *entries: tuple[CallId, int]) -> None:
        """Return to the owner what has not been handed out, and entries that could not be."""
        with contextlib.suppress(ProcessExited, OSError, LookupError):
            notify(self._node, self._owner, owner.give_back, *self._ref, *self._collect(entries))

    def on_recall(self) -> None:
        """Return to the owner what others wait for. The thread that reads; does not wait."""
        self._recalls += 1  # first, see ``_open_put``
        notify_promptly(self._node, self._owner, owner.give_back, *self._ref, *self._collect(()))

    def _collect(self, entries: tuple[tuple[CallId, int], ...]) -> tuple[tuple[tuple[CallId, int], ...], int]:
        """Empty this account; return the names of its entries, after those given, and the number of its credits."""
        with self._lock:
            entries += tuple([(loan, place) for loan, place, _ in self.inbox])
            self.inbox.clear()
            self._most = 1
            self._wish = 0
        credits = 0
        with contextlib.suppress(IndexError):
            while True:
                self._credits.pop()
                credits += 1
        return entries, credits

    # Looking

    def wait(self, timeout: float | None) -> None:
        """Wait until there is an item."""
        self.ask(owner.peek, True, timeout=timeout)

    def peek(self, timeout: float | None) -> Any:
        """Return the first item and leave it where it is."""
        item = self.ask(owner.peek, False, timeout=timeout)
        return item.open(copy_buffer) if type(item) is Parcel else item

    def lease(self, done: CallId, timeout: float | None) -> tuple[Any, int, CallId]:
        """Borrow an item when the one of another loan is done; return it, its deliveries and its loan. Shielded."""
        slot, number = self.exchange(owner.lease, done, timeout=timeout)
        outcome = self._node.open_slot(slot)
        if self.keeper is not None:
            item, deliveries = outcome[0].item, outcome[0].deliveries
        else:
            item, deliveries = outcome
        try:
            return (item.open(copy_buffer) if type(item) is Parcel else item), deliveries, number
        except BaseException:
            self.tell(owner.withdraw, number)
            raise

    def end_lease(self, loan: CallId, done: bool) -> None:
        """Say that a lease is done, or that its item must go to another consumer."""
        if done:
            self.tell(owner.confirm, loan, 0)
        else:
            self.tell(owner.withdraw, loan)

    def end_lease_later(self, loan: CallId) -> None:
        """Say that the item of a lease must go to another consumer; in a finalizer, which may run anywhere."""
        node, pid, ref = self._node, self._owner, self._ref
        node.references.later(lambda: tell(node, pid, ref, owner.withdraw, loan))


class _Outcome(Slot):
    """An outcome that a thread waits for, in the owner itself while it reads what others send."""

    __slots__ = ("reads", "thread")

    def __init__(self) -> None:
        super().__init__()
        self.reads: Link | None = None
        self.thread = threading.get_ident()

    def finish(self, value: Any, error: BaseException | None) -> None:
        super().finish(value, error)
        if self.reads is not None and threading.get_ident() != self.thread:
            self.reads.kick()  # it may sleep on that link, which will not bring this


class _Arrival(Slot):
    """An outcome that an event loop waits for."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        super().__init__()
        import asyncio  # here: whoever awaits has it, and to nobody else is it worth its time

        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()

    def settle(self, link: Link, frame: Frame) -> None:
        super().settle(link, frame)
        self._tell_loop()

    def finish(self, value: Any, error: BaseException | None) -> None:
        super().finish(value, error)
        self._tell_loop()

    def _tell_loop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self.loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def tell(node: Node, pid: ProcessId, ref: RefId, operation: Callable[..., None], *args: Any) -> None:
    """Have an operation run on the owner of a channel that has no outcome; one that is gone needs no news."""
    with contextlib.suppress(ProcessExited, OSError, LookupError):
        notify(node, pid, operation, *ref, *args)
