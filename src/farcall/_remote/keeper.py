"""The owner's side of a channel: a Queue, its lock, and the operations that reach it from everywhere.

An operation ``f(node, asker, creator, number, …)`` runs on the thread that reads it (see ``prompt``) or, in the
owner itself, on the user's thread. The queue decides under the lock; what it says is done after.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from .._errors import ChannelClosed, ProcessExited, SerializationError
from .._node.current import current_node
from .._node.node import Node
from .._node.prompt import Asker, notify_promptly
from .._node.references import Hold
from .._types import CallId, ProcessId, RefId
from .._wire.pickles import Parcel, is_plain
from .queue import Accept, Entry, Lend, Queue, Refuse, Show, Todo


class Withdrawn(Exception):
    """The end of an operation that its asker has given up."""


class Keeper:
    """A channel where it lives."""

    def __init__(self, node: Node, ref: RefId, capacity: float) -> None:
        self._node = node
        self._ref = ref
        self._bound: set[ProcessId] = set()
        self._cause: tuple[ProcessId, str] | None = None  # a bound process that has died
        self.partner: ProcessId = 0  # who has put or taken last, in another process
        self.queue = Queue(capacity)
        self.lock = threading.RLock()  # reentrant: a finalizer may run inside
        node.observe(self)

    def handle(self, event: Callable[..., list[Todo]], *args: Any) -> None:
        """Tell the queue of an event and do what follows. Any thread; does not wait."""
        with self.lock:
            todo = event(*args)
        for each in todo:
            self._do(each)

    def request(self, event: Callable[..., list[Todo]], asker: Asker, *args: Any) -> None:
        """Tell the queue of an event whose asker waits. One that is gone by now waits for nothing."""
        self.handle(event, asker, *args)
        if self._node.peers.reason(asker.pid) is not None:
            self.handle(self.queue.lose, asker.pid)

    def put_at_once(self, item: Any) -> bool:
        """Take an item in from this process if nobody has to be told of it; the quick way."""
        with self.lock:
            queue = self.queue
            if not (queue.is_idle() and queue.has_room()):
                return False
            queue.append(item)
            return True

    def take_at_once(self) -> Entry | None:
        """Give an entry out to this process if nobody has to be told of it; the quick way."""
        with self.lock:
            queue = self.queue
            ready = queue.entries and queue.is_idle() and not queue.several
            return queue.entries.popleft() if ready else None

    def _do(self, what: Todo) -> None:
        if isinstance(what, Accept):
            what.asker.finish(what.credits, None)
        elif isinstance(what, (Lend, Show)):
            self._hand_out(what)
        elif isinstance(what, Refuse):
            what.asker.finish(None, self.refusal() if what.closed else Withdrawn())
        else:
            notify_promptly(self._node, what.pid, recall, *self._ref)

    def _hand_out(self, what: Lend | Show) -> None:
        """Deliver items: in this process the very objects, elsewhere plain values and parcels."""
        items = (what.item,) if isinstance(what, Show) else tuple([each.item for each in what.entries])
        if what.asker.is_here:
            what.asker.finish(items[0] if isinstance(what, Show) else what.entries, None)
        elif all(is_plain(each) or type(each) is Parcel for each in items):
            self._send(what, items)
        else:
            self._node.pool.run(self._pack, what, items)  # pickling runs code of the user's

    def _pack(self, what: Lend | Show, items: tuple[Any, ...]) -> None:
        packed: list[Any] = []
        try:
            packed.extend(each if is_plain(each) or type(each) is Parcel else Parcel(each) for each in items)
        except SerializationError as error:
            pid, number = what.asker.pid, what.asker.number
            if isinstance(what, Lend):
                unsent = [(number, place) for place in range(len(packed), len(items))]
                self.handle(self.queue.give_back, pid, unsent, 0)
            if not packed:
                what.asker.finish(None, error)
        if packed:
            self._send(what, tuple(packed))

    def _send(self, what: Lend | Show, items: tuple[Any, ...]) -> None:
        if isinstance(what, Show):
            what.asker.finish(items[0], None)
        elif what.lease:
            what.asker.finish((items[0], what.entries[0].deliveries), None)
        else:
            what.asker.finish(items, None)

    def refusal(self) -> Exception:
        """Return why the channel gives nothing more."""
        return ChannelClosed("the channel is closed") if self._cause is None else ProcessExited(*self._cause)

    def bind(self, pid: ProcessId) -> None:
        """Close when a process dies, at once if it has; ValueError if there never was one."""
        if self._node.peers.reason(pid) is None:
            self._node.peers.get(pid)
        with self.lock:
            self._bound.add(pid)
        self.on_members_changed()

    def on_members_changed(self) -> None:
        """Take back what processes had that are gone, and close if one of them was bound. A thread of the node."""
        reason = self._node.peers.reason
        with self.lock:
            gone = [pid for pid in self.queue.involved() if reason(pid) is not None]
            dead = [pid for pid in self._bound if reason(pid) is not None]
            if dead and self.queue.isopen:
                self._cause = dead[0], reason(dead[0]) or ""
        for pid in gone:
            self.handle(self.queue.lose, pid)
        if dead:
            self.handle(self.queue.close)


def keep(node: Node, capacity: float) -> Hold:
    """Begin a channel in this process, for this process."""
    slot, ref, hold = node.references.own_later()
    slot.finish(Keeper(node, ref, capacity), None)
    return hold


def keep_for(creator: ProcessId, number: CallId, capacity: float) -> None:
    """Begin a channel in this process for another; an ordinary call."""
    node = current_node()
    ref = creator, number
    node.references.own(ref, creator).finish(Keeper(node, ref, capacity), None)


def find_keeper(node: Node, ref: RefId) -> Keeper | None:
    """Return a channel that lives here; None if it was freed."""
    slot = node.references.values.get(ref)
    return slot.value if slot is not None and isinstance(slot.value, Keeper) else None


def keeper_of(node: Node, ref: RefId) -> Keeper:
    """Return a channel that lives here; LookupError if it was freed."""
    keeper = find_keeper(node, ref)
    if keeper is None:
        raise LookupError("this channel is gone: the process that held it has left")
    return keeper


# Operations on the owner


def put(node: Node, asker: Asker, creator: ProcessId, number: CallId, item: Any, wish: int) -> None:
    """Take an item in when there is room; the answer is the number of credits granted."""
    keeper = keeper_of(node, (creator, number))
    if not asker.is_here:
        keeper.partner = asker.pid
    keeper.request(keeper.queue.put, asker, item, wish)


def deposit(node: Node, asker: Asker, creator: ProcessId, number: CallId, item: Any) -> None:
    """Take in an item whose producer has a credit; no answer is needed."""
    keeper = keeper_of(node, (creator, number))
    keeper.partner = asker.pid
    keeper.handle(keeper.queue.deposit, asker.pid, item)


def take(node: Node, asker: Asker, creator: ProcessId, number: CallId, most: int) -> None:
    """Lend up to so many items as soon as there is one; the answer is a tuple of items."""
    keeper = keeper_of(node, (creator, number))
    keeper.request(keeper.queue.take, asker, most, False)


def lease(node: Node, asker: Asker, creator: ProcessId, number: CallId, done: CallId) -> None:
    """Lend an item on lease, after the one of lease ``done`` (0: none) is done; the answer is (item, deliveries)."""
    keeper = keeper_of(node, (creator, number))
    if done:
        keeper.handle(keeper.queue.confirm, (asker.pid, done))
    keeper.request(keeper.queue.take, asker, 1, True)


def peek(node: Node, asker: Asker, creator: ProcessId, number: CallId, blindly: bool) -> None:
    """Answer with the first item as soon as there is one; ``blindly``: with None."""
    keeper = keeper_of(node, (creator, number))
    keeper.request(keeper.queue.peek, asker, blindly)


def confirm(node: Node, asker: Asker, creator: ProcessId, number: CallId, loan: CallId, place: int) -> None:
    """An item of a loan is in the consumer's hands, or the lease is done. Of a channel that was freed: nothing."""
    keeper = find_keeper(node, (creator, number))
    if keeper is None:
        return
    if not asker.is_here:
        keeper.partner = asker.pid
    keeper.handle(keeper.queue.confirm, (asker.pid, loan), place)


def withdraw(node: Node, asker: Asker, creator: ProcessId, number: CallId, operation: CallId) -> None:
    """The asker has given up an operation; what it was lent returns. To a channel that was freed: nothing."""
    keeper = find_keeper(node, (creator, number))
    if keeper is not None:
        keeper.handle(keeper.queue.withdraw, (asker.pid, operation))


def give_back(
    node: Node, asker: Asker, creator: ProcessId, number: CallId, entries: Iterable[tuple[CallId, int]], credits: int
) -> None:
    """A process returns items, named by loan and number in it, and so many credits; if the channel still is."""
    keeper = find_keeper(node, (creator, number))
    if keeper is not None:
        keeper.handle(keeper.queue.give_back, asker.pid, entries, credits)


def close(node: Node, asker: Asker, creator: ProcessId, number: CallId) -> None:
    """Close; the answer comes when everything is in that was put before."""
    keeper = keeper_of(node, (creator, number))
    keeper.request(keeper.queue.close, asker)


def bind(node: Node, asker: Asker, creator: ProcessId, number: CallId, pid: ProcessId) -> None:
    """Close when a process dies."""
    keeper_of(node, (creator, number)).bind(pid)
    asker.finish(None, None)


def status(node: Node, asker: Asker, creator: ProcessId, number: CallId) -> None:
    """Answer with (number of items, whether a take would not wait, whether it is open)."""
    keeper = keeper_of(node, (creator, number))
    with keeper.lock:
        queue = keeper.queue
        state = len(queue), queue.isready(), queue.isopen
    asker.finish(state, None)


# Operations on the process that uses the channel


def recall(node: Node, asker: Asker, creator: ProcessId, number: CallId) -> None:
    """Return what this process was lent and has not handed out, and its credits."""
    account = node.references.accounts.get((creator, number))
    if account is not None:
        account.on_recall()
