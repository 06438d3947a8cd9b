"""Future: a value that some process will have.

A Future is made by the call that computes its value, and then belongs to a call in ``Link.pending``; or it arrives
in a message, and begins a call that fetches the value when somebody asks. Whoever takes the call out of ``pending``
settles the Future, and nobody else does: the reader of the link with an answer, or ``cancel``.

The answer is unpickled when it is first asked for, by the thread that asks.
"""

import concurrent.futures
import threading
import time
from collections.abc import Generator
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, Generic, TypeVar

from .._errors import SerializationError
from .._node.current import current_node, shielded
from .._node.executor import Call
from .._node.link import Link
from .._node.node import Node
from .._node.references import Hold
from .._node.slots import Slot, wake
from .._types import CallId, ProcessId, RefId
from .._wire import pickles
from .._wire.frames import Frame
from .._wire.messages import ERROR, STORED, WANT_VALUE
from .owner import value_of, wait_for_value

T = TypeVar("T")


class Future(concurrent.futures.Future[T], Generic[T]):
    """The value that a call on process ``where`` will have.

    It is a ``concurrent.futures.Future`` and can be awaited. The value stays with its owner until it is fetched,
    unless it is small. Passing a Future to another process passes the reference, not the value.
    """

    # What ``__del__`` looks at, should ``__init__`` be cut short.
    _created = _passed = False
    _retrieved = True
    _link: Link | None = None
    _hold: Hold | None = None
    _frame: Frame | None = None

    def __init__(self, node: Node | None = None, where: ProcessId | None = None) -> None:
        # Not the base's __init__: it makes a condition variable, which few Futures need; see ``_condition``.
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self._node: Node = node if node is not None else current_node()
        self._where = where
        self._link = None
        self._number: CallId = 0
        self._call: Call | None = None  # of a call of this process to itself
        self._hold = None  # of a reference that came in a message
        self._created = False  # by a call of ours: its owner counts us as a holder
        self._passed = False  # to another process: the claim stays until this object goes, see ``__reduce__``
        self._own: tuple[RefId, Hold] | None = None  # the name of the value if this process owns it
        self._frame = None  # the answer, not unpickled yet
        self._lazy_condition: threading.Condition | None = None
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self._decoding = threading.Lock()  # held while the answer is fetched and unpickled
        self._asked = True  # a call that will settle this is under way
        self._retrieved = False
        self.settled = False
        self.parkers: list[Any] = []

    # What the node calls: see ``slots.Target``

    def settle(self, link: Link, frame: Frame) -> None:
        with self._lock:
            self._link = link
            if self.settled:
                return  # cancelled before its call was known
            self._frame = frame
            self._end(FINISHED)
        if self._created and frame.target != STORED and not self._passed:
            self._created = False
            self._node.references.let_go(link.pid, self._node.pid, frame.call)  # the value is here

    def finish(self, value: Any, error: BaseException | None) -> None:
        with self._lock:
            if self.settled:
                return  # cancelled
            self._result = value
            self._exception = error
            self._end(FINISHED)

    def belong(self, link: Link | None, number: CallId) -> None:
        """Take note of the call that will settle this, or has; if this was cancelled meanwhile, so is the call."""
        self._number = number
        self._link = link
        if link is not None and self.cancelled():
            self._node.cancel(link, number)
            self._let_go()

    def begin(self, call: Call) -> None:
        self._call = call
        if self.settled:
            call.interrupt()  # cancelled before it began

    def _end(self, state: str) -> None:
        """Become settled. First write, then look who waits: whoever waits does it the other way round.

        Who waits in the way of the base class holds its condition while it looks at the state and lines up.
        """
        with self._lock:
            condition = self._lazy_condition
            if condition is None:
                self._settle(state)
                return
            with condition:
                self._settle(state)
                self._notify(condition)

    def _settle(self, state: str) -> None:
        self._state = state
        self.settled = True
        if self.parkers:
            wake(self.parkers)

    def _notify(self, condition: threading.Condition) -> None:
        """Do what the base class does for those who wait in its way; with its condition held."""
        for waiter in self._waiters:
            if self._state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
            else:
                waiter.add_exception(self) if self._is_failed() else waiter.add_result(self)
        condition.notify_all()
        if self._done_callbacks:
            self._node.pool.run(self._invoke_callbacks)  # type: ignore[attr-defined]  # not on the reader's thread

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """The condition of the base class, made when somebody waits in its way: then the leader must read."""
        if self._lazy_condition is None:
            with self._lock:
                self._lazy_condition = self._lazy_condition or threading.Condition()
        if not self.settled:
            self._attend()
        return self._lazy_condition

    def _attend(self) -> None:
        """See to it that the answer is read although nobody waits for it in our way."""
        self._ask()
        if self._link is not None:
            with shielded():
                self._node.reader.tick()  # flushes, too
                self._node.reader.attend(self._link)

    # What users call

    @property
    def where(self) -> ProcessId | None:
        """The process that has the value or will have it; None while the call waits for a free worker."""
        return self._where

    def result(self, timeout: float | None = None) -> T:
        """Return the value, fetching it from its owner if it is not here; blocks. Raises what the call raised.

        TimeoutError after ``timeout`` seconds, CancelledError if it was cancelled, ProcessExited if its owner is
        gone.
        """
        if not self.settled:
            self._wait(timeout)
        error = self._open()
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # no cycle through the traceback
        return self._result  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, None if it returned a value. Blocks and raises as ``result`` does."""
        if not self.settled:
            self._wait(timeout)
        error = self._open()
        if isinstance(error, concurrent.futures.CancelledError) and self.cancelled():
            raise error
        return error

    def cancel(self) -> bool:
        """Interrupt the call and the calls that it made; true unless it had ended. Does not wait for its end."""
        with shielded():
            if self._link is not None:
                won = self._node.cancel(self._link, self._number)  # taken out of ``pending``: it is ours to settle
                if won:
                    self._end(CANCELLED_AND_NOTIFIED)
                    self._link.kick()  # a thread that waits for it may sleep on the link
            else:
                with self._lock:
                    won = not self.settled
                    if won:
                        self._end(CANCELLED_AND_NOTIFIED)
                if won and self._call is not None:
                    self._call.interrupt()
            if won:
                self._let_go()
        return self._state == CANCELLED_AND_NOTIFIED

    def cancelled(self) -> bool:
        """Return whether ``cancel`` came before the end."""
        return self._state == CANCELLED_AND_NOTIFIED

    def done(self) -> bool:
        """Return whether the outcome is known here. Does not block; of a Future that was passed it begins to ask."""
        if not self.settled:
            self._attend()
        return self.settled

    def running(self) -> bool:
        """Return whether the call is under way, as far as is known here."""
        return not self.settled and self._where is not None

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __repr__(self) -> str:
        place = "waiting for a worker" if self._where is None else f"on worker {self._where}"
        return (
            f"<Future {place}: {self._status()}>" if self._where != 1 else f"<Future on the master: {self._status()}>"
        )

    def _repr_html_(self) -> str:
        """Return a table for a notebook. Does not ask the owner, and does not open what has come from there."""
        from .tables import show_future  # only notebooks need it

        return show_future(self._where, self._node.peers.host(self._where), self._status(), self._glance())

    # Inside

    def _status(self) -> str:
        states = {CANCELLED_AND_NOTIFIED: "cancelled", PENDING: "pending", RUNNING: "pending"}
        return states.get(self._state) or ("failed" if self._is_failed() else "ready")

    def _glance(self) -> str:
        """Return what can be said of the outcome without asking for it."""
        if self._frame is not None:
            return {STORED: "stays there until it is fetched", ERROR: "fetch it to see why"}.get(
                self._frame.target, "is here, to be fetched"
            )
        if self._exception is not None:
            return f"{type(self._exception).__name__}: {self._exception}"
        return repr(self._result) if self._status() == "ready" else ""

    def _is_failed(self) -> bool:
        if self._frame is not None:
            return self._frame.target == ERROR
        return self._exception is not None

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._ask()
        try:
            self._node.reader.wait(self, self._link, deadline)
        except KeyboardInterrupt:
            self.cancel()  # Ctrl-C while waiting cancels what is waited for
            raise

    def _wait_until_ready(self, timeout: float | None) -> None:
        """Wait for the end of the call, not for its value to be here."""
        if self._asked or self._hold is None:
            if not self.settled:
                self._wait(timeout)
            return
        ref = self._hold.creator, self._hold.number
        future = Future[None](self._node, self._hold.owner)
        with shielded():
            future.belong(*self._node.start(self._hold.owner, future, wait_for_value, (ref,), {}, WANT_VALUE))
        future.result(timeout)

    def _ask(self) -> None:
        """Begin to fetch the value of a Future that came in a message; once."""
        if self._asked:
            return
        with self._lock:
            if self._asked:
                return
            self._asked = True
        hold = self._hold
        assert hold is not None
        ref = hold.creator, hold.number
        try:
            with shielded():
                self.belong(*self._node.start(hold.owner, self, value_of, (ref,), {}, WANT_VALUE))
        except Exception as error:
            self.finish(None, error)

    def _open(self) -> BaseException | None:
        """Unpickle the answer unless that is done, fetch the value if it stayed with its owner; return the error."""
        self._retrieved = True
        if self._state == CANCELLED_AND_NOTIFIED:
            return concurrent.futures.CancelledError()
        if self._frame is not None:
            with self._decoding:
                if self._frame is not None:
                    self._decode(self._frame)
        return self._exception

    def _decode(self, frame: Frame) -> None:
        link = self._link
        assert link is not None
        try:
            if frame.target == STORED:
                self._result = self._node.ask(link.pid, value_of, (self._node.pid, frame.call))
            else:
                self._result = self._node.open_answer(link, frame)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not hasattr(error, "__notes__"):
                raise  # ours, not the call's
            self._exception = error
        self._frame = None
        self._let_go()

    def _let_go(self, finally_: bool = False) -> None:
        """Have the owner know that this Future needs the value no more."""
        if self._passed and not finally_:
            return
        self._hold = None
        if self._created and self._link is not None:
            self._created = False
            self._node.references.let_go(self._link.pid, self._node.pid, self._number)

    def __del__(self) -> None:
        self._let_go(finally_=True)
        if not self._retrieved and self._frame is not None and self._frame.target == ERROR:
            self._node.references.mourn(self._frame)

    def __reduce__(self) -> Any:
        """Travel as a reference if the value is elsewhere or large, with the outcome if that is here and small.

        The claim of this process must outlast the announcement of the receiver's: first ``_passed`` is set, then
        it is seen whether the Future is settled; ``settle`` does it the other way round.
        """
        self._passed = True
        if self._state == CANCELLED_AND_NOTIFIED:
            return _cancelled, (self._where,)
        if self.settled and (self._frame is None or self._frame.target != STORED):
            error = self._open()
            if error is not None:
                return _finished, (None, error, self._where)
            if pickles.is_plain(self._result):
                return _finished, (self._result, None, self._where)
        elif self._hold is not None:
            hold = self._hold
            return _received, (pickles.attach_reference(hold.owner, hold.creator, hold.number), self._where)
        elif self._link is not None:
            return _received, (pickles.attach_reference(self._link.pid, self._node.pid, self._number), self._where)
        elif self._where is None:
            raise SerializationError("this Future waits for a free worker and has no place yet: wait for it first")
        return _received, (pickles.attach_reference(self._node.pid, *self._own_here()), self._node.pid)

    def _own_here(self) -> RefId:
        """Make this process the owner of the value, so that others can fetch it from here."""
        with self._lock:
            if self._own is None:
                slot, ref, hold = self._node.references.own_later()
                self._own = ref, hold  # as long as this Future lives; others have holds of their own
                self.add_done_callback(lambda done: _copy_outcome(done, slot))
            return self._own[0]


def _copy_outcome(done: "concurrent.futures.Future[Any]", slot: Slot) -> None:
    try:
        slot.finish(done.result(), None)
    except BaseException as error:
        slot.finish(None, error)


def _received(index: int, where: ProcessId) -> Future[Any]:
    hold: Hold = pickles.attached_hold(index)
    future: Future[Any] = Future(where=where)
    future._hold = hold
    future._asked = False
    return future


def _finished(value: Any, error: BaseException | None, where: ProcessId) -> Future[Any]:
    future: Future[Any] = Future(where=where)
    future.finish(value, error)
    return future


def _cancelled(where: ProcessId) -> Future[Any]:
    future: Future[Any] = Future(where=where)
    future._end(CANCELLED_AND_NOTIFIED)
    return future
