"""Operations: functions of farcall that run where a reference lives, at once and in the order of their messages.

An operation is an ordinary call with one flag. It runs on the thread that reads the link, so it takes no user's
lock, runs no user's code and does not wait. Its function gets who asks as first argument, and answers by
``finish``, now or at any later time, from any thread.
"""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._errors import ProcessExited
from .._types import CallId, ProcessId
from .._wire import messages, pickles
from .._wire.frames import Frame, encode_small
from .._wire.messages import ERROR, VALUE, WANT_NOTHING
from .._wire.pickles import Payload
from .answers import encode_error
from .current import running_call
from .executor import Definition
from .link import Link
from .metering import current_meter
from .slots import Slot, Target

if TYPE_CHECKING:
    from .node import Node


class Asker:
    """Who waits for the outcome of an operation: ``finish`` tells it, once."""

    __slots__ = ("_link", "_node", "_target", "_want", "number", "pid")

    def __init__(self, node: "Node", link: Link | None, number: CallId, want: int, target: Target | None) -> None:
        self._node = node
        self._link = link
        self._want = want
        self._target = target  # in this process
        self.pid: ProcessId = node.pid if link is None else link.pid
        self.number = number

    @property
    def is_here(self) -> bool:
        """Whether it is a thread of this process, which takes objects as they are."""
        return self._link is None

    def finish(self, value: Any, error: BaseException | None) -> None:
        """Deliver the outcome; never waits. What is not plain is pickled on another thread.

        ``value`` must be picklable: items of users come as parcels.
        """
        if self._link is None:
            if self._target is not None:
                self._target.finish(value, error)
        elif self._want == WANT_NOTHING:
            if error is not None:
                self._node.pool.run(self._node.callee.report, error)
        elif error is not None:
            self._post(self._link, ERROR, encode_error(error, str(self._node.describe())))
        else:
            self._post(self._link, VALUE, pickles.encode(value))

    def _post(self, link: Link, status: int, payload: Payload) -> None:
        if payload.buffers or payload.references:
            self._node.pool.run(self._node.callee.post_answer, link, status, self.number, payload)
        elif self._node.trace is not None:
            self._node.callee.post_answer(link, status, self.number, payload)
        else:
            post_promptly(self._node, link, encode_small(messages.RESULT, 0, status, self.number, payload.body))


def post_promptly(node: "Node", link: Link, frame: bytes) -> None:
    """Send a frame without waiting for room: what does not fit leaves from another thread."""
    try:
        if not link.offer(frame):
            node.pool.run(link.flush_quietly)
    except OSError:
        pass  # the reader finds the end of the connection


def execute(node: "Node", link: Link, definition: Definition, frame: Frame) -> None:
    """Run an operation that a peer asks for. The thread that reads the link."""
    asker = Asker(node, link, frame.call, frame.flags & messages.WANTS, None)
    try:
        parts = node.references.unwrap(link, frame) if frame.attachments else None
        body = frame.body
        args = pickles.decode(body, *parts) if parts is not None else pickles.decode_plain(body)
        definition.function()(node, asker, *args)
    except Exception as error:
        asker.finish(None, error)


def operate(
    node: "Node", pid: ProcessId, target: Target, operation: Callable[..., None], *args: Any
) -> tuple[Link | None, CallId]:
    """Have an operation run on a process; its outcome settles the target. ProcessExited if that one is gone."""
    if pid == node.pid:
        number = node.next_number()
        operation(node, Asker(node, None, number, 0, target), *args)
        return None, number
    return node.start(pid, target, operation, args, {}, messages.WANT_VALUE | messages.PROMPT)


def await_outcome(node: "Node", target: Target, link: Link | None, deadline: float | None) -> None:
    """Wait for an outcome; shielded before and after, whatever happens, not in between."""
    try:
        node.reader.wait(target, link, deadline)
    finally:
        call = running_call()
        if call is not None:
            call.shield()


def notify(node: "Node", pid: ProcessId, operation: Callable[..., None], *args: Any) -> None:
    """Have an operation run on a process whose outcome nobody waits for. When this returns it has been sent."""
    if pid == node.pid:
        operation(node, Asker(node, None, 0, 0, None), *args)
        return
    link = node.links.get(pid)
    known = node.codebook.number_of(operation)
    if link is None or known not in link.known or node.trace is not None or current_meter.get() is not None:
        node.start(pid, _NOBODY, operation, args, {}, WANT_NOTHING | messages.PROMPT)
        return
    payload = pickles.encode_arguments(args)
    node.references.announce(payload, pid)
    link.post_payload(messages.CALL, WANT_NOTHING | messages.PROMPT, known, 0, payload)


def notify_promptly(node: "Node", pid: ProcessId, operation: Callable[..., None], *args: Any) -> None:
    """Do as ``notify`` does, but without waiting for room: for threads that read. Arguments without attachments."""
    link = node.links.get(pid)
    known = node.codebook.number_of(operation)
    if pid == node.pid or link is None or known not in link.known or node.trace is not None:
        node.pool.run(_notify_quietly, node, pid, operation, args)
        return
    body = pickles.encode_arguments(args).body
    post_promptly(node, link, encode_small(messages.CALL, WANT_NOTHING | messages.PROMPT, known, 0, body))


def _notify_quietly(node: "Node", pid: ProcessId, operation: Callable[..., None], args: tuple[Any, ...]) -> None:
    with contextlib.suppress(ProcessExited, OSError, LookupError):  # what is gone needs no news
        notify(node, pid, operation, *args)


_NOBODY = Slot()
