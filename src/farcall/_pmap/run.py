"""One map under way: carries out what its Schedule decides, and tells it what happened.

Everything runs on the thread that wants the results; others only put what arrives into the inbox. Whatever strikes
that thread, at whichever line, ``cancel`` finds every call by looking where the node keeps them.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .._errors import ProcessExited
from .._node.answers import decode_error
from .._node.current import current_node, shielded
from .._node.executor import Call
from .._node.link import Link
from .._node.node import Node
from .._node.slots import Slot, wake
from .._pool import default_worker_pool
from .._remote.future import Future
from .._types import ProcessId, RefId
from .._wire import pickles
from .._wire.messages import WANT_VALUE
from .inputs import Source
from .options import Options
from .progress import Progress
from .schedule import Batch, Policy, Recall, Schedule
from .site import Outcome, Site, Task, give_back, make_opener, work

_REMOVED = "it was removed"  # why a worker ended that was asked to: no item is to blame

Chunk = tuple[int, int, list[Any]]
"""The results of some items in a row, from an index up to another; of a fold one result for them all."""


class Inbox(Slot):
    """What has arrived and was not looked at. A thread waits for it as for an answer."""

    __slots__ = ("_replies",)

    def __init__(self) -> None:
        super().__init__()
        self._replies: deque[Reply | None] = deque()

    def put(self, reply: "Reply | None") -> None:
        """Add a reply, or None for the news that members have changed. Any thread."""
        self._replies.append(reply)
        self.settled = True
        if self.parkers:
            wake(self.parkers)

    def take(self) -> "list[Reply | None]":
        """Return what has arrived, and wait for more from now on."""
        self.settled = False  # first: what comes from now on may be in the list already, which does no harm
        return [self._replies.popleft() for _ in range(len(self._replies))]


_OPEN, _BATCH, _RECALL = range(3)


class Reply(Slot):
    """The answer to one call of a map: to open a site, to run a batch, or to give back what has not begun."""

    __slots__ = ("_call", "_cancelled", "_inbox", "_unopened", "kind", "number", "pid")

    def __init__(self, inbox: Inbox, kind: int, pid: ProcessId, number: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self._inbox = inbox
        self._call: Call | None = None
        self._cancelled = False
        self._unopened = [True]  # to pop is one step: whoever does, drops the answer
        self.pid = pid
        self.number = number  # of the batch that the call carries

    def settle(self, link: Link, frame: Any) -> None:
        super().settle(link, frame)
        if self._cancelled:
            self._drop()
        self._inbox.put(self)

    def finish(self, value: Any, error: BaseException | None) -> None:
        super().finish(value, error)
        self._inbox.put(self)

    def begin(self, call: Call) -> None:
        self._call = call
        if self._cancelled:
            call.interrupt()

    def cancel(self) -> bool:
        """Interrupt a call of this process to itself; of another's answer that has come, let go of what it holds."""
        self._cancelled = True
        if self.settled:
            self._drop()
        if self._call is not None and not self.settled:
            self._call.interrupt()
        return True

    def _drop(self) -> None:
        """Let go of the references in an answer that nobody opens."""
        link, frame = self.link, self.frame
        if link is not None and frame is not None and frame.attachments and self._unopened:
            with contextlib.suppress(IndexError):
                self._unopened.pop()
                current_node().references.unwrap(link, frame)


class Run:
    """A map under way. A ``with`` block, whose end cancels what is not done.

    ``chunks`` has the results that have come; each ``step`` adds to it. The thread that made it.
    """

    def __init__(
        self, function: Callable[..., Any], source: Source, options: Options, task: Task, policy: Policy
    ) -> None:
        self._node: Node = current_node()
        self._function = function
        self._source = source
        self._opener = make_opener(function)
        self._task = task
        self._options = options
        self._pool = options.pool if options.pool is not None else default_worker_pool()
        self._members: dict[ProcessId, None] = {}
        self._alone = self._pool.workers() == [self._node.pid]  # else this process does not stand in for lost workers
        self._last_lost: ProcessExited | None = None
        self._inbox = Inbox()
        self._replies: set[Reply] = set()  # awaited
        self._sites: dict[ProcessId, Future[Site]] = {}
        self.chunks: deque[Chunk] = deque()
        self.failures = 0
        self._progress = Progress(options.progress, source.size, getattr(function, "__name__", "pmap"))
        self.journal = None
        try:
            self.journal = options.open_journal(function, source)
            drawn, done, gaps = self.journal.resume(source) if self.journal is not None else (0, [], [])
        except BaseException:
            self._progress.close()
            raise
        self.schedule = Schedule(source.draw, policy, source.size, drawn)
        for each in gaps:
            self.schedule.again(each)
        for chunk in done:
            self._add(*chunk)

    def __repr__(self) -> str:
        return f"<Run of {self._function!r}: {self.schedule!r}>"

    def __enter__(self) -> "Run":
        self._node.observe(self)
        self._look_who_is_there()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        mine, self._replies = self._replies, set()
        if mine and kind is GeneratorExit:
            self._node.pool.run(self._cancel, mine)  # we may be in a finalizer, at any point of any thread
        elif mine:
            self._cancel(mine)
        self._sites.clear()
        if self.journal is not None:
            self.journal.close()
        self._progress.close()

    def _cancel(self, replies: set[Reply]) -> None:
        """Cancel the calls of some replies, found where the node keeps them."""
        with shielded():
            for link in list(self._node.reader.links):
                for number, target in list(link.pending.items()):
                    if target in replies:
                        self._node.cancel(link, number)
            for each in replies:
                each.cancel()

    def on_members_changed(self) -> None:
        """Have the map look who is there; called by the node, on any thread."""
        self._pool.on_members_changed()  # whichever of us was told first
        self._inbox.put(None)

    @property
    def finished(self) -> bool:
        """Whether every result is in ``chunks``, or was."""
        return self.schedule.finished

    def step(self, *, wait: bool = True) -> None:
        """Send what can be sent and take in what has come; ``wait`` for something if need be."""
        self._act()
        if wait and not self.schedule.finished:
            self._check_for_workers()
            try:
                self._node.reader.wait(self._inbox, None, self.schedule.next_time())
            except TimeoutError:
                return
        for reply in self._inbox.take():
            if reply is None:
                self._look_who_is_there()
            elif reply in self._replies:
                self._replies.discard(reply)
                self._take(reply)

    @property
    def has_news(self) -> bool:
        """Whether ``step`` has something to take in."""
        return self._inbox.settled

    # Members

    def _look_who_is_there(self) -> None:
        present = dict.fromkeys(self._pool.workers())
        if not self._alone and list(present) == [self._node.pid]:
            present.clear()  # the pool's last resort, which must not run what may have killed the others
        for pid in [pid for pid in self._members if pid not in present]:
            self.schedule.left(pid)
            if pid in self._sites and self._node.peers.reason(pid) is None:
                self._recall(pid)  # it is about to end, and gives back what it has not begun
        joined = [pid for pid in present if pid not in self._members]
        self._members = present
        for pid in joined:
            self._open(pid)

    def _open(self, pid: ProcessId) -> None:
        reply = Reply(self._inbox, _OPEN, pid)
        self._start(reply, self._opener, self._task)

    def _check_for_workers(self) -> None:
        if self._replies or self._members:
            return
        if self._last_lost is None:
            raise RuntimeError("this pool has no workers: add some with addprocs(n), or with put(pid)")
        self._last_lost.add_note("it was the last worker of this map, which is not done")
        raise self._last_lost

    # Out

    def _act(self) -> None:
        while (order := self.schedule.next(time.monotonic())) is not None:
            if isinstance(order, Recall):
                self._recall(order.pid)
            else:
                self._send(order.batch)

    def _send(self, batch: Batch) -> None:
        reply = Reply(self._inbox, _BATCH, batch.pid, batch.number)
        site = self._sites[batch.pid]
        if batch.pid == self._node.pid:
            self._start(reply, site.result().work, batch.number, batch.start, batch.items)
        else:
            self._start(reply, work, _name_of(site), batch.number, batch.start, batch.items)

    def _start(self, reply: Reply, function: Callable[..., Any], *args: Any) -> None:
        """Start a call; what goes wrong is its answer."""
        self._replies.add(reply)
        try:
            with shielded():
                link, _ = self._node.start(reply.pid, reply, function, args, {}, WANT_VALUE)
        except Exception as error:
            reply.finish(None, error)
            return
        if link is not None:
            self._node.reader.attend(link)

    def _recall(self, pid: ProcessId) -> None:
        site = self._sites[pid]
        if pid == self._node.pid:
            self.schedule.gave_back(*site.result().give_back())
        else:
            self._start(Reply(self._inbox, _RECALL, pid), give_back, _name_of(site))

    # In

    def _take(self, reply: Reply) -> None:
        try:
            value = self._node.open_slot(reply)
        except ProcessExited as error:
            if error.pid != reply.pid:
                raise
            self._lose(error)
        except Exception as error:
            if reply.kind != _BATCH:
                raise
            batch = self.schedule.refused(reply.number)
            if batch is not None:
                self._fail(batch, error)
        else:
            if reply.kind == _BATCH:
                self._take_outcome(value)
            elif reply.kind == _RECALL:
                self.schedule.gave_back(*value)
            elif reply.pid in self._members:
                self._sites[reply.pid] = value
                self.schedule.joined(reply.pid)

    def _lose(self, error: ProcessExited) -> None:
        self._last_lost = error
        for batch in self.schedule.lost(error.pid, blame=error.reason != _REMOVED):
            blamed = ProcessExited(error.pid, error.reason)
            blamed.add_note(f"{batch.strikes} workers have ended while they ran this item, and nothing else")
            self._fail(batch, blamed, may_retry=False)

    def _take_outcome(self, outcome: Outcome) -> None:
        number, done, body, encoded, seconds = outcome
        batch = self.schedule.answered(number, done, seconds)
        if batch is None:
            return  # of a worker that was given up
        values = body if type(body) is list else pickles.decode_plain(body)
        first = 0
        for place in sorted(encoded):
            self._deliver(batch, first, place, values[first:place])
            first = place + 1
            self._fail(batch.part(place, first), decode_error(encoded[place], ((), (), ())))
        self._deliver(batch, first, done, values[first:] if first else values)

    def _deliver(self, batch: Batch, first: int, stop: int, values: list[Any]) -> None:
        if stop <= first:
            return
        if self.journal is not None:
            self.journal.write(batch.start + first, batch.items[first:stop], values)
        self._add(batch.start + first, batch.start + stop, values)

    def _add(self, start: int, stop: int, values: list[Any]) -> None:
        self.chunks.append((start, stop, values))
        self._progress.advance(stop - start, self.failures)

    def _fail(self, batch: Batch, error: BaseException, *, may_retry: bool = True) -> None:
        """An item has failed: try it again, have its place taken, or give up."""
        options = self._options
        self.failures += 1
        if isinstance(error, Exception):
            left = options.retry_delays[batch.tries :] if may_retry else ()
            if left and (options.retry_check is None or options.retry_check(error)):
                again = Batch(batch.start, batch.items, batch.strikes, batch.tries + 1)
                self.schedule.retry(again, time.monotonic() + left[0])
                return
            if options.on_error is not None:
                self._add(batch.start, batch.stop, [options.on_error(error)])
                return
        error.add_note(self._source.describe(batch.start))
        raise error


def _name_of(site: Future[Site]) -> RefId:
    hold = site._hold
    assert hold is not None
    return hold.creator, hold.number
