"""What happens when a message arrives: one function per kind.

They run on the thread that reads the link, in the order of its messages, and never run code of the user's; only
``on_call`` may, when that thread is the leader.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._wire import messages
from .._wire.frames import Frame
from .executor import SHORT, Call, Definition
from .link import Link
from .main_thread import on_main_thread
from .metering import Stopwatch
from .prompt import execute

if TYPE_CHECKING:
    from .node import Node


def on_call(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Begin a call. False if the reader was the leader and is no more."""
    definition = link.definitions.get(frame.target)
    if frame.flags & messages.PROMPT and definition is not None:
        execute(node, link, definition, frame)
        return True
    call = Call(node, link, frame.call, frame.flags & messages.WANTS)
    if frame.flags & messages.TIMED:
        call.watch = Stopwatch()
    if frame.flags & messages.CELL:
        node.cells.take(call, frame.body)
    link.running[frame.call] = call
    before, link.last_call = link.last_call, call
    if before is not None and not before.begun:
        call.after = before
    parts = node.references.unwrap(link, frame) if frame.attachments else None
    if call.want == messages.WANT_FUTURE:
        node.references.own((link.pid, frame.call), link.pid)
    if definition is None:
        call.begin()
        node.callee.answer_error(call, LookupError(f"function {frame.target} has not been defined here"))
        return True
    reader = node.reader
    if not leading:
        if not reader.main.give(node.callee.execute, call, definition, frame, parts):
            node.pool.run(node.callee.execute, call, definition, frame, parts)
        return True
    on_main = reader.leads_on_main and on_main_thread()
    if on_main and not reader.main.claim():
        node.pool.run(node.callee.execute, call, definition, frame, parts)  # we were given another call meanwhile
        return True
    if not on_main and reader.main.give(node.callee.execute, call, definition, frame, parts):
        return True
    if definition.cost is not None and definition.cost < SHORT and call.after is None:
        return node.callee.execute_inline(call, definition, frame, parts)
    if link.out:
        node.pool.run(link.flush_quietly)
    reader.give_role(link)
    node.callee.execute(call, definition, frame, parts)
    return False


def on_result(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Deliver an answer. One that nobody waits for any more is dropped, with the references in it."""
    target = link.pending.pop(frame.call, None)
    if link.timed:
        timed = link.timed.pop(frame.call, None)
        if timed is not None:
            frame = timed.settle(frame)
    if target is None:
        if frame.attachments:
            node.references.unwrap(link, frame)
        return True
    target.settle(link, frame)
    return True


def on_define(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Keep a function; it is unpickled by the first call of it."""
    parts = node.references.unwrap(link, frame)
    link.definitions[frame.target] = Definition((frame.body, *parts), fresh=bool(frame.flags & messages.FRESH))
    return True


def on_forget(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Drop a function, or take note of modules that have changed; calls that run keep what they have."""
    if frame.target:
        link.definitions.pop(frame.target, None)
    else:
        node.modules.tell(frame.call, messages.decode_changed(bytes(frame.body)))
    return True


def on_cancel(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Interrupt a call. One that has ended is no error."""
    call = link.running.get(frame.call)
    if call is not None:
        node.pool.run(call.interrupt)
    return True


def on_hold(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Take note of who holds what is owned here."""
    for creator, number, holder, change in messages.decode_hold(bytes(frame.body)):
        node.references.change_hold((creator, number), holder, change)
    return True


def on_release(node: "Node", link: Link, frame: Frame, leading: bool) -> bool:
    """Take shared memory back."""
    for segment in messages.decode_release(bytes(frame.body)):
        node.segments.release(segment, link)
    return True


HANDLERS: dict[int, Callable[["Node", Link, Frame, bool], bool]] = {
    messages.CALL: on_call,
    messages.RESULT: on_result,
    messages.DEFINE: on_define,
    messages.FORGET: on_forget,
    messages.CANCEL: on_cancel,
    messages.HOLD: on_hold,
    messages.RELEASE: on_release,
}
