"""RemoteChannel: a queue that lives in one process and that every process can use.

Here are the verbs. ``account`` is what a process has of a channel, ``keeper`` the owner's side, and ``queue``
decides.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from .._errors import ChannelClosed
from .._node.current import current_node
from .._node.references import Hold
from .._types import ProcessId
from .._wire import pickles
from . import keeper
from .account import Account
from .leases import Leases

T = TypeVar("T")

_GLANCE = 1.0  # seconds that ``repr`` waits for the owner


class RemoteChannel(Generic[T]):
    """A queue of ``capacity`` items that lives in process ``pid`` (None: this one) and that every process can use.

    Passing it to another process, as an argument or in a closure, passes the channel; it is freed when its last
    holder lets go. Capacity 0 is a rendezvous: ``put`` waits until somebody takes. ``math.inf`` is unbounded.
    ``type`` is what every item must be an instance of; others are a TypeError at the producer.

    Items come out in the order in which they went in, and whoever waits is served in the order of coming. When
    ``put`` has returned the owner has the item. ``take`` and the loop over the channel hand an item out at most
    once: if that process dies right after, the item is gone with it. Under ``lease()`` an item is handed out at
    least once. If the owner dies, the channel and its items are gone, and whoever waits gets ProcessExited.
    An operation that has timed out or was interrupted has not happened. Julia: ``RemoteChannel``.

    >>> from farcall import RemoteChannel, spawnat
    >>> channel = RemoteChannel(10, type=str)
    >>> _ = spawnat(2, channel.put, "hello")
    >>> channel.take()
    'hello'
    >>> channel
    <RemoteChannel on 1: 0/10 str, open>
    """

    def __init__(
        self,
        capacity: float = 1,
        *,
        type: type[T] = object,  # type: ignore[assignment]
        pid: ProcessId | None = None,
    ) -> None:
        _check_capacity(capacity)
        isinstance(None, type)  # a TypeError for what is no type
        node = current_node()
        if pid is None or pid == node.pid:
            self._hold = keeper.keep(node, capacity)
        else:
            number = node.next_number()
            node.ask(pid, keeper.keep_for, node.pid, number, capacity)
            self._hold = Hold(node, pid, node.pid, number)
        self._capacity = capacity
        self._type: Any = type
        self._account = _account_of(self._hold)

    @property
    def where(self) -> ProcessId:
        """The process in which the channel lives."""
        return self._hold.owner

    def put(self, item: T, timeout: float | None = None) -> None:
        """Append an item; blocks while the channel is full. When it returns, the owner has the item.

        TypeError for a wrong type, SerializationError if the item cannot travel, ChannelClosed if the channel is
        closed, TimeoutError after ``timeout`` seconds; then the item is not in the channel. A put in the owner
        itself stores the object, others a copy. Julia: ``put!``.
        """
        if self._type is not object and not isinstance(item, self._type):
            raise TypeError(f"a RemoteChannel of {_name(self._type)} takes no {_name(type(item))}: {item!r:.60}")
        self._account.put(item, timeout)

    def take(self, timeout: float | None = None) -> T:
        """Remove the first item and return it; blocks until there is one.

        ChannelClosed once the channel is closed and empty, TimeoutError after ``timeout`` seconds; nothing is lost
        then. An item that cannot be unpickled here is a SerializationError and stays. Julia: ``take!``.
        """
        return self._account.take(timeout)  # type: ignore[no-any-return]

    def peek(self, timeout: float | None = None) -> T:
        """Return the first item without removing it; blocks until there is one. Raises what ``take`` raises.

        ``fetch(channel)`` does the same. Julia: ``fetch``.
        """
        return self._account.peek(timeout)  # type: ignore[no-any-return]

    def isready(self) -> bool:
        """Return whether a take would find an item at once; asks the owner. Julia: the same name."""
        return bool(self._account.inbox) or bool(self._account.ask(keeper.status)[1])

    def isopen(self) -> bool:
        """Return whether the channel has not been closed; asks the owner. Julia: the same name."""
        return bool(self._account.ask(keeper.status)[2])

    def __len__(self) -> int:
        """Return how many items there are to be taken; asks the owner."""
        return int(self._account.ask(keeper.status)[0])

    def __bool__(self) -> bool:
        return True

    def close(self, timeout: float | None = None) -> None:
        """Let nothing more be put. What is in the channel can still be taken, then ChannelClosed. Again is no error.

        Whoever waits to put gets ChannelClosed. Julia: the same name.
        """
        self._account.ask(keeper.close, timeout=timeout)

    def bind(self, pid: ProcessId) -> None:
        """Close the channel when a process dies: what is in it can still be taken, then ProcessExited.

        So nobody waits for a producer or consumer that is gone. ValueError if there never was such a process.
        Julia: ``bind(channel, task)``.
        """
        self._account.ask(keeper.bind, pid)

    def lease(self, timeout: float | None = None) -> Leases[T]:
        """Iterate over the items; each is done only when the next is asked for, or the loop is left normally.

        If the consumer's process dies or is removed, or an exception leaves the loop, its item goes to another
        consumer, in its old place; ``deliveries`` of the iterator says how often the current item has been handed
        out. So every item is handed out at least once, and what a consumer does with it should bear to be done
        twice. Ends when the channel is closed, empty and no lease is outstanding. TimeoutError if an item is
        waited for longer than ``timeout`` seconds. If the owner dies the items are gone: ProcessExited.

        To stop an iteration elsewhere than by ``break`` or ``return``, use it as a context manager.
        """
        return Leases(self._account, timeout)

    def __iter__(self) -> Iterator[T]:
        """Take items until the channel is closed and empty. ProcessExited if a bound process or the owner died."""
        while True:
            try:
                item = self.take()
            except ChannelClosed:
                return
            yield item

    async def __aiter__(self) -> AsyncIterator[T]:
        """Take items in a coroutine until the channel is closed and empty."""
        while True:
            try:
                item = await self._account.take_async()
            except ChannelClosed:
                return
            yield item

    def __repr__(self) -> str:
        kind = "" if self._type is object else f" {_name(self._type)}"
        try:
            count, _, is_open = self._account.ask(keeper.status, timeout=_GLANCE)
        except Exception as error:
            return f"<RemoteChannel on {self.where}: {self._capacity}{kind}, {error}>"
        return f"<RemoteChannel on {self.where}: {count}/{self._capacity}{kind}, {'open' if is_open else 'closed'}>"

    def _repr_html_(self) -> str | None:
        """Return a table for a notebook; None, so that it shows the line, if the owner does not answer."""
        from .tables import show_channel  # only notebooks need it

        try:
            count, _, is_open = self._account.ask(keeper.status, timeout=_GLANCE)
        except Exception:
            return None
        state = "open" if is_open else "closed"
        host = self._hold.node.peers.host(self.where)
        return show_channel((self.where, host), state, _name(self._type), count, self._capacity)

    def __reduce__(self) -> Any:
        hold = self._hold
        index = pickles.attach_reference(hold.owner, hold.creator, hold.number)
        return _arrived, (index, self._capacity, self._type)


def _arrived(index: int, capacity: float, kind: Any) -> RemoteChannel[Any]:
    channel: RemoteChannel[Any] = RemoteChannel.__new__(RemoteChannel)
    channel._hold = pickles.attached_hold(index)
    channel._capacity = capacity
    channel._type = kind
    channel._account = _account_of(channel._hold)
    return channel


def _account_of(hold: Hold) -> Account:
    """Return the account of this process for a channel that it holds."""
    node, ref = hold.node, (hold.creator, hold.number)
    return node.references.account_of(ref, lambda: Account(node, hold.owner, ref))  # type: ignore[no-any-return]


def _check_capacity(capacity: float) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, (int, float)):
        raise TypeError(f"capacity={capacity!r}: write a number of items, 0 for a rendezvous, math.inf for no bound")
    if not capacity >= 0 or (capacity != int(capacity) if capacity < float("inf") else False):
        raise ValueError(f"capacity={capacity!r}: write 0, a whole number of items, or math.inf")


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)
