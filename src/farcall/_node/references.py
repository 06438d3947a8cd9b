"""Values that live here and that others may fetch; claims of this process on values that live elsewhere.

Claims end in finalizers, which may run at any point of any thread: they only append to a queue, and the ticker has
the news sent.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from .._errors import FarcallError, ProcessExited
from .._types import CallId, ProcessId, RefId
from .._wire import messages
from .._wire.frames import Frame
from .._wire.pickles import Payload
from .link import Link
from .refs import Holders
from .slots import Slot

if TYPE_CHECKING:
    from .node import Node


class Hold:
    """This process's claim on a value that lives elsewhere, for one message that brought it here."""

    __slots__ = ("creator", "node", "number", "owner")

    def __init__(self, node: "Node", owner: ProcessId, creator: ProcessId, number: CallId) -> None:
        self.node = node
        self.owner = owner
        self.creator = creator
        self.number = number

    def __del__(self) -> None:
        self.node.references.let_go(self.owner, self.creator, self.number)


class References:
    """What lives here, who holds it, and what this process lets go of."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.values: dict[RefId, Slot] = {}
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self._holders = Holders()
        self._dropped: deque[tuple[ProcessId, ProcessId, CallId]] = deque()  # appended by finalizers
        self._released: deque[tuple[Link, int]] = deque()  # likewise
        self._failures: deque[Frame] = deque()  # likewise: of Futures that nobody fetched
        self._errands: deque[Callable[[], None]] = deque()  # likewise: of anybody
        self.accounts: WeakValueDictionary[RefId, Any] = WeakValueDictionary()  # what this process has of channels
        self.stand_ins: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # objects that stand for values: references

    def lose(self, pid: ProcessId) -> None:
        """Free what only a process held that is gone."""
        with self._lock:
            free = [self.values.pop(ref, None) for ref in self._holders.lose(pid)]
        del free  # outside the lock: they may have finalizers

    def own(self, ref: RefId, holder: ProcessId) -> Slot:
        """Begin a value that will live here."""
        with self._lock:
            slot = self.values.get(ref) or Slot()  # it may be asked for already, see ``expect``
            if self._holders.create(ref, holder):
                self.values[ref] = slot
        return slot

    def expect(self, ref: RefId) -> tuple[Slot, bool]:
        """Return the slot of a value, and whether it is known yet.

        Who asks for a value holds a reference, which was announced before it was passed on; but that news, and
        the call that makes the value, came over another link and may still have to be read.
        """
        with self._lock:
            known = ref in self._holders
            return self.values.setdefault(ref, Slot()), known

    def give_up(self, ref: RefId) -> None:
        """Expect a value no more, unless it is known by now: who waits for it gets a LookupError."""
        with self._lock:
            slot = self.values.pop(ref, None) if ref not in self._holders else None
        if slot is not None:
            gone = f"the value {ref} is gone: nobody was known to hold a reference to it"
            slot.finish(None, LookupError(gone))

    def own_later(self) -> tuple[Slot, RefId, Hold]:
        """Begin a value of this process that it can pass on before it exists; it lives while somebody holds it."""
        ref = (self._node.pid, self._node.next_number())
        return self.own(ref, self._node.pid), ref, Hold(self._node, self._node.pid, *ref)

    def settle(self, ref: RefId, value: Any, error: BaseException | None) -> None:
        slot = self.values.get(ref)
        if slot is not None:
            slot.finish(value, error)

    def change_hold(self, ref: RefId, holder: ProcessId, change: int) -> None:
        """Take note that a process holds a reference to a value of this one, or no more."""
        with self._lock:
            gone = self.values.pop(ref, None) if self._holders.change(ref, holder, change) else None
        del gone  # outside the lock: it may have a finalizer

    def announce(self, payload: Payload, receiver: ProcessId) -> None:
        """Tell the owners of the references in a message who will hold them. Before the message is sent."""
        for owner, creator, number in payload.references:
            if owner == self._node.pid:
                self.change_hold((creator, number), receiver, 1)
                continue
            with contextlib.suppress(OSError, ProcessExited):
                self._node.connections.link_to(owner).post(messages.encode_hold([(creator, number, receiver, 1)]))

    def unwrap(self, link: Link, frame: Frame) -> tuple[Any, Any, Any]:
        """Return the buffers, the indexed buffers and the holds of a frame; once per frame."""
        return link.unwrap(
            frame, lambda owner, creator, number: Hold(self._node, owner, creator, number), self.release_segment
        )

    def let_go(self, owner: ProcessId, creator: ProcessId, number: CallId) -> None:
        """Hold a reference no more. Any thread, also in a finalizer: the ticker sends the news."""
        if not self._node.closed:
            self._dropped.append((owner, creator, number))
            if not self._node.reader.ticking:
                self._node.reader.tick()

    def release_segment(self, link: Link, segment: int) -> None:
        self._released.append((link, segment))
        if not self._node.reader.ticking:
            self._node.reader.tick()

    def mourn(self, frame: Frame) -> None:
        """Report a failure that nobody fetched; in a finalizer."""
        self._failures.append(frame)
        self._node.reader.tick()

    def later(self, errand: Callable[[], None]) -> None:
        """Have something done on another thread; in a finalizer."""
        if not self._node.closed:
            self._errands.append(errand)
            self._node.reader.tick()

    def account_of(self, ref: RefId, make: Callable[[], Any]) -> Any:
        """Return what this process has of a channel, made now if it has nothing yet."""
        with self._lock:
            account = self.accounts.get(ref)
            if account is None:
                account = self.accounts[ref] = make()
            return account

    def tick(self) -> bool:
        """Send the news that finalizers left; the ticker's thread, which must not block."""
        busy = bool(self._errands or self._dropped or self._released or self._failures)
        if busy:
            self._node.pool.run(self._send_news)
        return busy

    def _send_news(self) -> None:
        for errand in _take(self._errands):
            errand()
        changes: dict[ProcessId, list[tuple[int, int, int, int]]] = {}
        for owner, creator, number in _take(self._dropped):
            changes.setdefault(owner, []).append((creator, number, self._node.pid, -1))
        for owner, records in changes.items():
            self._send_drops(owner, records)
        releases: dict[Link, list[int]] = {}
        for link, segment in _take(self._released):
            releases.setdefault(link, []).append(segment)
        for link, segments in releases.items():
            with contextlib.suppress(OSError):
                link.post(messages.encode_release(segments))
        for frame in _take(self._failures):
            self._node.callee.report_encoded(frame.body)

    def _send_drops(self, owner: ProcessId, records: list[tuple[int, int, int, int]]) -> None:
        if owner == self._node.pid:
            for creator, number, holder, change in records:
                self.change_hold((creator, number), holder, change)
            return
        with contextlib.suppress(OSError, FarcallError, ValueError):
            self._node.connections.link_to(owner).post(messages.encode_hold(records))


def _take(queue: deque[Any]) -> list[Any]:
    """Empty a queue that others append to."""
    items = []
    while True:
        try:
            items.append(queue.popleft())
        except IndexError:
            return items
