"""Who reads which link.

One thread at a time, the leader, watches all cold links and sleeps until one of them has something. A thread that
waits for an answer takes its link away from the leader (it becomes hot) and reads it itself, which saves waking
another thread; when it has gone, the ticker gives the link back. Most of a call's time is the waking of sleeping
threads, so whoever has just been busy with a link polls it for some microseconds before it sleeps.

The leader runs calls of functions known to be short itself. Before anything else it gives its role away, together
with the link that it reads, so calls start in their order. While it runs user code its role lies as a ticket in a
list of its own: whoever takes the ticket out has the role. Normally the leader takes it back; if the code waits in
farcall or takes longer than a tick, it is taken from it.
"""

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .._config import Config
from .._transport.base import Listener
from .._wire.frames import Frame
from .current import running_call
from .executor import STALLED, Definition, ThreadPool
from .interrupts import InterruptGuard
from .link import Link
from .main_thread import MainThread, on_main_thread
from .slots import Parker, Target, discard
from .tracing import Tracer

if TYPE_CHECKING:
    from .executor import Call

TICK = 2e-3  # seconds; longer delays what a stalled call holds up, shorter costs more while there is traffic
_QUIET_TICKS = 4  # without anything to do, then the ticker sleeps

_clock = time.perf_counter

Ticket = list[tuple[Link, Definition]]


class Hooks(NamedTuple):
    """What the node does with what is read."""

    handle: Callable[[Link, Frame, bool], bool]  # a message; false if the role of the leader was given away in it
    on_lost: Callable[[Link], None]  # a connection has ended
    on_connect: Callable[[Listener], None]  # somebody knocks
    on_tick: Callable[[], bool]  # true while there is something to do


class Reader:
    """The threads that read, and the links that they read."""

    def __init__(self, config: Config, pool: ThreadPool, hooks: Hooks, *, leads_on_main: bool) -> None:
        self.leads_on_main = leads_on_main
        self._spin = config.spin
        self._leader_polls = leads_on_main and config.spin > 0
        self._pool = pool
        self._handle, self._on_lost, self._on_connect, self._on_tick = hooks
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selecting = threading.Lock()  # guards the selector's tables, not its sleep
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._ready: deque[Link] = deque()  # the leader's
        self._asleep = False
        self.links: set[Link] = set()
        self._hot: set[Link] = set()
        # The role of the leader.
        self._ticket: Ticket = []  # of the leader that runs user code, empty once it is taken
        self._inline_thread = 0
        self._inline_serial = 0
        self.main = MainThread(self.wake)
        self.interrupts = InterruptGuard(self.tick)
        self.trace: Tracer | None = None
        # The ticker.
        self._ticker_parker = Parker()
        self.ticking = False
        self._seen_serial = -1
        self._ticker = threading.Thread(target=self._tick_until_closed, name="farcall-ticker", daemon=True)
        self._ticker.start()

    # Links

    def add(self, link: Link) -> None:
        """Have a link read from now on."""
        self.links.add(link)
        self._cool(link, force=True)

    def remove(self, link: Link) -> None:
        """Forget a link whose connection has ended."""
        self.links.discard(link)
        self._hot.discard(link)
        self._unregister(link)
        link.dispose()

    def listen(self, listener: Listener) -> None:
        """Have connections accepted from now on."""
        with self._selecting:
            self._selector.register(listener.fileno(), selectors.EVENT_READ, listener)
        self.wake()

    def unlisten(self, listener: Listener) -> None:
        """Accept no more connections."""
        with self._selecting:
            self._selector.unregister(listener.fileno())

    def _unregister(self, link: Link) -> None:
        with self._selecting:
            self._unwatch(link)

    def _unwatch(self, link: Link) -> None:
        if link.registered is not None:
            self._selector.unregister(link.registered)
            link.registered = None

    def _heat(self, link: Link) -> None:
        """Take a link away from the leader; with its ``reading`` held, or because another thread holds that."""
        with self._selecting:  # one step: a link that is neither hot nor watched would be read by nobody
            link.hot = True
            self._hot.add(link)
            self._unwatch(link)
        if not self.ticking:
            self.tick()

    def _cool(self, link: Link, force: bool = False) -> None:
        """Give a link back to the leader. If a thread reads it nevertheless, the leader will heat it again."""
        with self._selecting:
            if link.closed or not (force or link.hot):
                return
            link.hot = False
            self._hot.discard(link)
            if link.registered is None:
                try:
                    descriptor = link.transport.fileno()
                    self._selector.register(descriptor, selectors.EVENT_READ, link)
                except (OSError, ValueError, KeyError):
                    return  # closed at this moment
                link.registered = descriptor
        self._hand_over(link)

    def _hand_over(self, link: Link) -> None:
        """Have the leader handle what a waiting thread has read and left: the selector does not know of it."""
        if link.decoder.holds_more():
            self._ready.append(link)
            self.wake()

    def attend(self, link: Link) -> None:
        """Have the leader read a link at once: somebody waits for it without reading."""
        if link.hot and not link.reading.locked():
            self._cool(link)

    def cool_down(self) -> None:
        """Give back the links that nobody reads any more: what comes next on them would wait for the ticker."""
        if self._hot:
            for link in list(self._hot):
                self.attend(link)

    # Waiting

    def wait(self, target: Target, link: Link | None, deadline: float | None = None) -> None:
        """Block until the target is settled. TimeoutError past the deadline (``time.monotonic``).

        Runs on the thread of whoever waits, which reads the link if no other thread does. An interrupt of the
        call that waits is raised here.
        """
        me = threading.get_ident()
        if self._ticket and self._inline_thread == me:
            self.depose()
        if self.interrupts.unchecked and on_main_thread():
            self.interrupts.guard()
        call = running_call()
        if call is not None:
            call.shield()
        started = _clock() if self.trace is not None else 0.0
        try:
            while not target.settled:
                if link is not None and not link.closed and link.reading.acquire(False):
                    try:
                        self._read_until(target, link, deadline, call)
                    finally:
                        link.reading.release()
                        if link.waiters:
                            link.pass_reading_on()
                        elif not link.hot:  # it was given to the leader meanwhile
                            self._hand_over(link)
                        if not self.ticking:  # it took us for asleep, and would leave the link hot
                            self.tick()
                elif not target.settled:
                    self._park(target, link, deadline, call)
                if not target.settled and deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError("the answer did not come in time")
                if call is not None and call.cancelled:
                    call.check()
        finally:
            if call is not None:
                call.sleeper = None
                call.unshield()
            if self.trace is not None and started:
                self.trace.waited(link.pid if link is not None else None, started, _clock())

    def _park(self, target: Target, link: Link | None, deadline: float | None, call: "Call | None") -> None:
        """Sleep until the target is settled by another thread, or it is our turn to read."""
        parker = Parker()
        target.parkers.append(parker)
        if link is not None:
            link.waiters.append(parker)
        if call is not None:
            call.sleeper = parker.unpark
        try:
            must_read = link is not None and not link.closed and not link.reading.locked()
            if not (target.settled or must_read or (call is not None and call.is_due)):
                self.cool_down()
                parker.park(-1 if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            discard(target.parkers, parker)
            if link is not None:
                discard(link.waiters, parker)
                if link.waiters:
                    link.pass_reading_on()

    def _read_until(self, target: Target, link: Link, deadline: float | None, call: "Call | None") -> None:
        """Read and handle messages until the target is settled or it is time to look around; reading held."""
        if not link.hot:
            self._heat(link)
        link.used = True
        if not self.ticking:
            self.tick()
        if link.out:
            link.flush()
        until: float | None = None  # when polling ends, 0 if we sleep; decided when there is nothing to read
        while True:
            try:
                frame = link.next_frame()
                if frame is not None:
                    self._handle(link, frame, False)
                elif target.settled:
                    break  # whatever came with it has been handled too
                elif not link.fill():
                    raise EOFError
                else:
                    if until:
                        link.waiting.hit()  # something came while we polled
                    until = None
            except BlockingIOError:
                if until is None:
                    until = _clock() + self._spin if self._spin and link.waiting.pays() else 0.0
                if until:
                    if _clock() < until:
                        continue
                    link.waiting.miss()
                    until = 0.0
                if call is not None:
                    call.sleeper = link.kick
                    if call.is_due:
                        return
                if deadline is not None and time.monotonic() >= deadline:
                    return
                if not self._sleep_on(link, deadline):
                    return
            except EOFError:
                self._lose(link)
                return

    def _sleep_on(self, link: Link, deadline: float | None) -> bool:
        """Sleep until the link that we read has something; the leader takes care of the others. False if it closed."""
        self.cool_down()
        link.sleep(deadline)
        link.used = True
        if not self.ticking:
            self.tick()
        return not link.closed

    # Leading

    def lead(self, link: Link | None = None) -> None:
        """Be the leader until the role is given away; ``link`` came with it, its ``reading`` held."""
        while not self._closed:
            if link is None:
                if self.leads_on_main and on_main_thread():
                    if self.main.tasks:
                        self._pool.run(self.lead)
                        return
                elif self.main.wants_role and self.main.give_role():
                    return
                link = self._next_link()
                if link is None:
                    continue
            if not self._drain(link):
                return
            link = None
        if link is not None:
            link.reading.release()  # closed before the role arrived

    def lead_on_main(self) -> None:
        """Be the leader on the main thread whenever it is not busy with a call, until the reader is closed."""
        self.main.free()
        while not self._closed:
            self.lead()
            while (task := self.main.next_task()) is not None:
                function, args = task
                function(*args)
                del task, function, args

    def stop_main(self) -> None:
        """Have ``lead_on_main`` return as soon as the main thread is free. Any thread."""
        self._closed = True
        self.wake()
        self.main.close()

    def give_role(self, link: Link) -> None:
        """Have another thread lead, with the link that this one was reading."""
        self._pool.run(self.lead, link)

    def depose(self) -> bool:
        """Take the role from a leader that runs user code, and give it to another thread."""
        try:
            link, definition = self._ticket.pop()
        except IndexError:
            return False
        definition.cost = STALLED
        self.give_role(link)
        return True

    def _next_link(self) -> Link | None:
        """Return a link that has something, its ``reading`` held; None after a wake-up."""
        while self._ready:
            link = self._ready.popleft()
            if link.reading.acquire(False):
                return link
            if not link.closed:
                self._heat(link)  # a waiting thread reads it
        self._asleep = True
        try:
            if self.main.wants_role or self.main.tasks or self._closed:
                self.wake()
            for key, _ in self._selector.select():
                if isinstance(key.data, Link):
                    self._ready.append(key.data)
                elif key.data is None:
                    self._woken.recv(4096)
                else:
                    self._on_connect(key.data)
        except OSError:
            pass  # a descriptor was closed under the selector
        finally:
            self._asleep = False
        return None

    def _drain(self, link: Link) -> bool:
        """Read and handle messages until there are no more; false if the role was given away meanwhile."""
        polls = self._leader_polls and link.leading.pays()
        until = 0.0
        while True:
            try:
                frame = link.next_frame()
                if frame is not None:
                    if not self._handle(link, frame, True):
                        return False
                    if link.waiters and link.is_awaited():
                        break
                elif link.fill():
                    if until and polls:
                        link.leading.hit()
                    until = 0.0
                else:
                    raise EOFError
            except BlockingIOError:
                if link.out and not self._flush(link):
                    return False
                now = _clock()
                if not until:
                    until = now + self._spin if polls else now
                if now >= until and polls:
                    link.leading.miss()
                if now >= until or link.waiters or self._ready or self.main.wants_role or self.main.tasks:
                    break
            except EOFError:
                link.reading.release()
                self._lose(link)
                return True
        if link.waiters and link.is_awaited():
            self._heat(link)  # who waits reads, now and the next time
        link.reading.release()
        if link.waiters:
            link.pass_reading_on()
        return True

    def _flush(self, link: Link) -> bool:
        """Send answers that waited for company; if the peer does not read, the role may be taken meanwhile."""
        ticket = self.lay_ticket(link, _NO_FUNCTION)
        link.flush_quietly()
        return take_ticket(ticket)

    def lay_ticket(self, link: Link, definition: Definition) -> Ticket:
        """Let the role of the leader be taken from this thread, which holds ``reading`` of the link."""
        self._inline_thread = threading.get_ident()
        self._inline_serial += 1
        ticket = self._ticket = [(link, definition)]
        if not self.ticking:
            self.tick()
        return ticket

    def _lose(self, link: Link) -> None:
        if not link.closed:
            self._unregister(link)
            link.close()
            self._on_lost(link)

    def wake(self) -> None:
        """Wake the leader, so that it looks around."""
        try:
            self._waker.send(b"x")
        except OSError:
            pass  # full: it is awake; or closed

    # The ticker

    def tick(self) -> None:
        """Have the ticker look around soon and for a while. Any thread, also in a finalizer."""
        if not self.ticking:
            self.ticking = True
            self._ticker_parker.unpark()

    def _tick_until_closed(self) -> None:
        while not self._closed:
            quiet = 0
            while quiet < _QUIET_TICKS and not self._closed:
                time.sleep(TICK)
                quiet = 0 if self._tick() else quiet + 1
            self.interrupts.look_again()
            self.ticking = False
            if not self._tick():  # nothing came between the last look and the line above
                self._ticker_parker.park()
            self.ticking = True

    def _tick(self) -> bool:
        """Do what is due; return true if there was, or will be soon, something to do."""
        busy = self._on_tick()
        busy |= self.interrupts.repeat()
        serial = self._inline_serial
        if self._ticket:
            busy = True
            if serial == self._seen_serial:
                self.depose()
        self._seen_serial = serial
        for link in list(self._hot):
            if link.used:
                busy, link.used = True, False
            elif not link.reading.locked():  # else its reader sleeps, and calls us when it wakes
                busy = True
                self._cool(link)
        for link in list(self.links):
            if link.out and not link.sending.locked():
                busy = True
                self._pool.run(link.flush_quietly)
        return busy

    def close(self) -> None:
        """Stop reading; the threads of the reader leave."""
        self._closed = True
        self.interrupts.unguard()
        self.wake()
        self.main.close()
        self._ticker_parker.unpark()

    def join(self) -> None:
        """Free what the threads of the reader used, after they have left."""
        self._ticker.join(1.0)
        self._woken.close()
        self._waker.close()
        self._selector.close()


def take_ticket(ticket: Ticket) -> bool:
    """Become the leader again after user code; false if another thread has become it."""
    try:
        ticket.pop()
    except IndexError:
        return False
    return True


_NO_FUNCTION = Definition((), fresh=False)
