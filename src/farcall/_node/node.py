"""The node: everything that farcall keeps in a process.

Here are its links, the calls that it makes, and what it does when a process is gone. ``callee`` has the calls that
run here, ``references`` the values that live here or elsewhere, ``reader`` the threads that read.

Threads: any thread may call a public method. Messages are handled on whichever thread reads the link. User code
runs on the pool's threads, on the main thread of a worker, or, if it is known to be short, on the thread that reads.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .._config import Config
from .._errors import ProcessExited, SerializationError
from .._transport.base import Listener
from .._transport.shm import SegmentPool
from .._types import CallId, ProcessId
from .._wire import messages, pickles
from .._wire.codebook import Codebook
from .._wire.frames import Frame, encode_small
from .._wire.messages import VALUE, WANT_NOTHING, WANT_VALUE
from .._wire.pickles import Payload
from .answers import decode_error
from .callee import Callee
from .cells import Cells
from .connections import GRACE, Connections, Dial
from .current import current_call, running_call, shielded
from .executor import Call, ThreadPool, at_home
from .handlers import HANDLERS
from .link import Link
from .machine_code import Library
from .metering import TimedCall, count_message, current_meter, run_metered
from .modules import Modules
from .peers import Peer, Peers
from .reader import Hooks, Reader
from .references import References
from .slots import Slot, Target
from .sources import Sources
from .tracing import Tracer


class Node:
    """One process of a cluster."""

    def __init__(
        self,
        pid: ProcessId,
        token: bytes,
        config: Config,
        *,
        dial: Dial,
        listeners: Sequence[Listener] = (),
        leads_on_main: bool = False,
    ) -> None:
        self.pid = pid
        self.config = config
        self.peers = Peers()
        self.pool = ThreadPool(config.idle_thread, self._enter_thread)
        self.codebook = Codebook(config.definition_limit, config.capture_warning)
        self.segments = SegmentPool(config.shared_pool)
        self.links: dict[ProcessId, Link] = {}  # the one on which we call a peer
        self.own_calls: dict[CallId, Call] = {}  # of this process to itself
        self.trace: Tracer | None = None
        self.turn = 0  # of "any"
        self.journal: list[tuple[Any, ...]] = []  # what ``everywhere`` did, for workers that join later; the master's
        self.joining = threading.RLock()  # held while somebody joins; who must not miss anybody takes it too
        self.default_pool: Any = None
        self.main: dict[str, Any] | None = None  # the globals of ``__main__`` in a guest
        self.landlord: Any = None  # of a guest: whose process this is, such as a worker of Dask
        self.leave: Callable[[], None] = self.close  # what the master's goodbye does
        self.on_output: Callable[[ProcessId, str, str, int], None] = lambda pid, stream, text, cell: None  # of guests
        self.members_changed = threading.Condition()
        self.observers: weakref.WeakSet[Any] = weakref.WeakSet()  # told by ``changed``
        self.on_exit: Callable[[ProcessId, str], None] = lambda pid, reason: None
        self.closed = False
        self.leaving = False  # this process is about to end, and answers nothing more
        self._lock = threading.Lock()  # guards the tables of members and exits; nothing is sent with it held
        self.connections = Connections(self, token, dial, listeners)
        self.references = References(self)
        self.callee = Callee(self)
        self.library = Library(self)
        self.cells = Cells()
        self.sources = Sources(self)  # the master's
        self.modules = Modules(self)  # a worker's
        self._numbers = itertools.count(1)
        self._exits: dict[ProcessId, _Exit] = {}  # under way
        self.news_takes: dict[ProcessId, float] = {}  # seconds, of whose end an engine hears late
        hooks = Hooks(self._handle, self._lost, self.connections.accept, self._tick)
        self.reader = Reader(config, self.pool, hooks, leads_on_main=leads_on_main)
        self.peers.add(self.describe())
        for listener in listeners:
            self.reader.listen(listener)
        if not leads_on_main:
            self.pool.run(self.reader.lead)

    def __repr__(self) -> str:
        return f"<Node {self.pid}: {len(self.peers.pids())} processes, {len(self.references.values)} values>"

    def describe(self) -> Peer:
        """Return what other processes must know of this one."""
        return Peer(self.pid, self.connections.address, socket.gethostname(), os.getpid())

    def _enter_thread(self) -> None:
        current_call.set(Call(self, None, 0, WANT_NOTHING))

    # Calls made here

    def start(
        self,
        pid: ProcessId,
        target: Target,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        want: int,
    ) -> tuple[Link | None, CallId]:
        """Send a call and return where and under which number; the target will be settled, come what may.

        What cannot be pickled is a SerializationError here, and nothing is sent. A call to this process itself
        gets a thread (and no link), and its arguments are not copied. A call that makes this one is shielded.
        """
        number = next(self._numbers)
        meter = current_meter.get()
        timed = TimedCall(meter, function, pid) if meter is not None else None
        if pid == self.pid:
            call = self.own_calls[number] = Call(self, None, number, want)
            call.watch = timed.stay() if timed is not None else None
            call.cell = self.cells.current()
            self.pool.run(self.callee.execute_here, call, target, function, args, kwargs)
            return None, number
        link = self.links.get(pid) or self.connections.link_to(pid)
        if self.modules.are_used:
            self.modules.precede(link)
        known = self.codebook.number_of(function)
        once = False
        if known not in link.known:
            known, once = self._define(link, function)
        flags = want
        if kwargs:
            flags |= messages.KEYWORDS
            payload = pickles.encode((args, kwargs))
        else:
            payload = pickles.encode_arguments(args)
        if self.cells.are_used:
            flags, payload = self.cells.mark(flags, payload)
        if want & messages.WANTS != WANT_NOTHING:
            link.pending[number] = target
        if timed is not None:
            flags |= timed.go(link, number, payload.size, want)
        try:
            self._post_call(link, flags, known, number, payload)
            if once:
                link.post(messages.encode_forget(known))
        except OSError:
            self._broke(link)
        if link.closed:
            self._fail_if_gone(link)
        return link, number

    def _post_call(self, link: Link, flags: int, known: int, number: CallId, payload: Payload) -> None:
        if payload.buffers or payload.references:
            self.references.announce(payload, link.pid)
            link.post_payload(messages.CALL, flags, known, number, payload)
        else:
            frame = encode_small(messages.CALL, flags, known, number, payload.body)
            if flags & messages.WANTS == WANT_VALUE or flags & messages.PROMPT:
                link.post(frame)  # its caller waits for it, or counts on its being gone
            elif link.enqueue(frame):
                self.reader.tick()
        if self.trace is not None:
            self.trace.sent("call", link.pid, self.pid, number, payload.size)

    def _define(self, link: Link, function: Callable[..., Any]) -> tuple[int, bool]:
        """Make sure that a peer has a function; return its number, and whether it is for one call only."""
        known = link.known  # another set when modules have changed meanwhile: then the function must go once more
        shipment = self.codebook.examine(function)
        if shipment.number not in known:
            count_message(shipment.payload.size)
            flags = messages.FRESH if shipment.fresh else 0
            self.references.announce(shipment.payload, link.pid)
            try:
                link.post_payload(messages.DEFINE, flags, shipment.number, 0, shipment.payload)
            except OSError:
                self._broke(link)
            if not shipment.once:
                known.add(shipment.number)
        while self.codebook.forgotten:
            with contextlib.suppress(IndexError):
                self._forget(self.codebook.forgotten.pop())
        return shipment.number, shipment.once

    def _forget(self, number: int) -> None:
        for link in list(self.reader.links):
            if number in link.known:
                link.known.discard(number)
                with contextlib.suppress(OSError):
                    link.post(messages.encode_forget(number))

    def ask(self, pid: ProcessId, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function on a process and return its value: one message each way. The caller's thread waits."""
        if pid == self.pid:
            meter = current_meter.get()
            if meter is not None:
                return run_metered(meter, pid, at_home(function), args, kwargs)
            return at_home(function)(*args, **kwargs)
        slot = Slot()
        call = running_call()
        if call is not None:
            call.shield()  # the wait below takes over
        try:
            link, number = self.start(pid, slot, function, args, kwargs, WANT_VALUE)
        except BaseException:
            if call is not None:
                call.unshield()
            raise
        try:
            self.reader.wait(slot, link)
        except BaseException:
            self.cancel(link, number)
            raise
        return self.open_slot(slot)

    def next_number(self) -> int:
        """Return a number that names a call or a value of this process, once."""
        return next(self._numbers)

    def tell(self, pid: ProcessId, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Run a function on a process and do not wait for anything."""
        with shielded():
            self.start(pid, Slot(), function, args, kwargs, WANT_NOTHING)

    def cancel(self, link: Link | None, number: CallId) -> bool:
        """Interrupt a call made here; true if its target was taken out of ``pending`` and is the caller's to settle."""
        if link is None:
            call = self.own_calls.get(number)
            if call is not None:
                call.interrupt()
            return False
        if link.pending.pop(number, None) is None:
            return False
        timed = link.timed.pop(number, None)
        if timed is not None:
            timed.give_up("cancelled")
        try:
            link.post(messages.encode_cancel(number))
        except OSError:
            self._broke(link)
        return True

    def interrupt_all(self) -> None:
        """Interrupt every call that other processes have made here."""
        for link in list(self.reader.links):
            for call in list(link.running.values()):
                call.interrupt()

    def open_slot(self, slot: Slot) -> Any:
        """Return the value that arrived in a slot, or raise the error."""
        if slot.frame is None:
            return slot.outcome()
        assert slot.link is not None
        return self.open_answer(slot.link, slot.frame)

    def open_answer(self, link: Link, frame: Frame) -> Any:
        """Return the value of an answer, or raise its error. In a notebook what was printed before comes first."""
        if self.cells.are_used:
            self.cells.catch_up()
        parts = self.references.unwrap(link, frame) if frame.attachments else None
        if frame.target == VALUE:
            try:
                return pickles.decode(frame.body, *parts) if parts is not None else pickles.decode_plain(frame.body)
            except SerializationError as error:
                raise SerializationError(f"the answer of process {link.pid} came, but {error}") from error.__cause__
        raise decode_error(frame.body, parts or ((), (), ()))

    def _handle(self, link: Link, frame: Frame, leading: bool) -> bool:
        """Handle a message; false if this thread was the leader and is no more."""
        try:
            handler = HANDLERS[frame.kind]
        except KeyError:
            raise EOFError(f"a message of unknown kind {frame.kind}") from None
        return handler(self, link, frame, leading)

    # Members

    def changed(self) -> None:
        """Tell who waits for it that somebody has joined or left."""
        with self.members_changed:
            self.members_changed.notify_all()
        with self.members_changed:
            observers = list(self.observers)
        for observer in observers:
            observer.on_members_changed()

    def _tick(self) -> bool:
        """Do what is due; true if there may be more soon. The ticker's thread, which must not block."""
        busy = self.references.tick()
        for pid, leaving in list(self._exits.items()):
            busy = True
            if time.monotonic() >= leaving.deadline:
                self.pool.run(self._bury, pid)
        return busy

    def _lost(self, link: Link) -> None:
        """A connection has ended; the thread that read it. What it was for ends when the reason is known."""
        if self.links.get(link.pid) is link or link.pending:
            self._leave(link.pid, connection_ended=True)
        else:
            self.pool.run(self.reader.remove, link)

    def _broke(self, link: Link) -> None:
        """Sending failed. The reader will find the end of the connection and say so."""

    def exited(self, pid: ProcessId, reason: str) -> None:
        """A process has ended, says whoever watches it. Its last messages may still be in its connection."""
        self._leave(pid, reason=reason)

    def withdraw(self, pid: ProcessId, seconds: float) -> None:
        """A member does what it has been given and then ends. Its end may be known already, to who told it to."""
        with self._lock:
            self.peers.withdraw(pid, seconds)
            leaving = self._exits.get(pid)
            if leaving is not None and not leaving.connection_ended:
                leaving.deadline = time.monotonic() + GRACE + seconds
        self.changed()

    def patience(self, pid: ProcessId) -> float:
        """Return how many seconds the news of the end of a process may come after that of its connection."""
        return GRACE + self.news_takes.get(pid, 0.0)

    def observe(self, observer: Any) -> None:
        """Have ``on_members_changed`` of an object called whenever ``changed`` is, as long as it lives."""
        with self.members_changed:
            self.observers.add(observer)

    def _leave(self, pid: ProcessId, reason: str | None = None, connection_ended: bool = False) -> None:
        with self._lock:
            if self.peers.reason(pid) is not None or self.closed:
                return
            patience = GRACE + self.peers.finishes_in(pid) if reason else self.patience(pid)
            leaving = self._exits.setdefault(pid, _Exit(time.monotonic() + patience))
            leaving.reason = leaving.reason or reason
            leaving.connection_ended |= connection_ended or pid not in self.links
            complete = leaving.reason is not None and leaving.connection_ended
        if complete:
            self.pool.run(self._bury, pid)
        else:
            self.reader.tick()

    def _bury(self, pid: ProcessId) -> None:
        """Fail what waits for a process that is gone, and free what it held."""
        with self._lock:
            leaving = self._exits.pop(pid, None)
            if leaving is None:
                return
            reason = leaving.reason or "the connection to it broke"
            self.peers.remove(pid, reason)
        self.news_takes.pop(pid, None)
        self.references.lose(pid)
        self.links.pop(pid, None)
        for each in [each for each in list(self.reader.links) if each.pid == pid]:
            each.close()
            self.reader.remove(each)
            for call in list(each.running.values()):
                call.interrupt()
            _fail_all(each, reason)
        self.on_exit(pid, reason)
        self.changed()

    def _fail_if_gone(self, link: Link) -> None:
        """Settle a call that was added to a link after its peer was buried."""
        reason = "the cluster was shut down" if self.closed else self.peers.reason(link.pid)
        if reason is not None:
            _fail_all(link, reason)

    def close(self) -> None:
        """Leave the cluster: close every link, end the threads, give all memory back."""
        if self.closed:
            return
        self.closed = True
        self.reader.close()
        for link in list(self.reader.links):
            link.close()
            self.reader.remove(link)
            _fail_all(link, "the cluster was shut down")
        self.connections.close()
        self.sources.close()
        self.modules.close()
        self.callee.close()
        self.pool.close()
        self.pool.join(1.0)
        self.reader.join()
        self.segments.close()


def _fail_all(link: Link, reason: str) -> None:
    """Fail the calls that wait for a process that is gone."""
    while link.timed:
        with contextlib.suppress(KeyError):
            link.timed.popitem()[1].give_up("lost")
    while link.pending:
        with contextlib.suppress(KeyError):
            link.pending.popitem()[1].finish(None, ProcessExited(link.pid, reason))


class _Exit:
    """What is known of a process that is about to be gone."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.reason: str | None = None
        self.connection_ended = False
