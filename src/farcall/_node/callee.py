"""The calls that run in this process, and their answers.

Everything here runs on the thread of the call, or, for a coroutine, on a thread of the pool when it has ended.
"""

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .._errors import SerializationError
from .._types import CallId
from .._wire import messages, pickles
from .._wire.frames import Frame, encode_small
from .._wire.messages import VALUE, WANT_FUTURE, WANT_NOTHING
from .._wire.pickles import Payload
from .answers import encode_error, print_failure
from .current import current_call
from .executor import Call, Definition, EventLoop, Interrupt
from .link import Link
from .load import Load
from .main_thread import on_main_thread
from .metering import Stopwatch
from .reader import take_ticket
from .slots import Target

if TYPE_CHECKING:
    from .node import Node

_MOST_WAITING = 64  # answers that wait for company
_clock = time.perf_counter


class Callee:
    """Runs what others, and this process itself, ask this process to run."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.load = Load()
        self._loop: EventLoop | None = None
        self._starting = threading.Lock()

    def execute(self, call: Call, definition: Definition, frame: Frame, parts: Any, *, coalesce: bool = False) -> None:
        """Run a call of a peer and answer it. Any thread; never raises."""
        token = current_call.set(call)
        call.main = on_main_thread()
        if call.cell:
            self._node.cells.begin(call.cell)
        if call.watch is not None:
            call.watch.take_up()
        started = _clock()
        try:
            try:
                if self._node.modules.news:
                    self._node.modules.catch_up()
                function = definition.function()
                body = frame.body
                args = pickles.decode(body, *parts) if parts is not None else pickles.decode_plain(body)
            except SerializationError as error:
                raise SerializationError(
                    f"on process {self._node.pid} the call arrived, but {error}"
                ) from error.__cause__
            if frame.flags & messages.KEYWORDS:
                args, kwargs = args
                value = call.run(function, args, kwargs)
            else:
                value = call.run(function, args, {})
        except BaseException as error:
            self._ended(call, definition, started)
            self.answer_error(call, KeyboardInterrupt() if isinstance(error, Interrupt) else error)
        else:
            self._ended(call, definition, started)
            if type(value) is CoroutineType:
                self.event_loop().start(call, value, lambda value, error: self._answer(call, value, error))
            else:
                self.answer_value(call, value, coalesce=coalesce)
        finally:
            current_call.reset(token)
            if not call.begun:
                call.begin()  # it failed before it ran
            definition.took(_clock() - started)
            self._node.reader.cool_down()

    def _ended(self, call: Call, definition: Definition, started: float) -> None:
        """Do what must be done before the answer makes the caller go on: record, and let the main thread be had."""
        if call.watch is not None:
            call.watch.end()
        if self._node.trace is not None and call.link is not None:
            self._node.trace.ran(definition.name, call.link.pid, call.number, started, _clock())
        if call.main and self._node.reader.leads_on_main:
            self._node.reader.main.free()

    def execute_inline(self, call: Call, definition: Definition, frame: Frame, parts: Any) -> bool:
        """Run a short call on the leader's thread; false if it was not that short, and another thread leads now."""
        assert call.link is not None
        ticket = self._node.reader.lay_ticket(call.link, definition)
        self.execute(call, definition, frame, parts, coalesce=True)
        return take_ticket(ticket)

    def execute_here(
        self, call: Call, target: Target, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run a call that this process makes to itself."""
        token = current_call.set(call)
        if call.cell:
            self._node.cells.begin(call.cell)
        finish = target.finish
        if call.watch is not None:
            call.watch.take_up()
            finish = functools.partial(_end_watched, call, call.watch, finish)
        try:
            target.begin(call)
            value = call.run(function, args, kwargs)
            if type(value) is CoroutineType:
                if call.watch is not None:
                    call.watch.end()
                self.event_loop().start(call, value, finish)
                return
        except BaseException as error:
            if call.want == WANT_NOTHING:
                self.report(error)
            finish(None, error)
        else:
            finish(value, None)
        finally:
            self._node.own_calls.pop(call.number, None)
            current_call.reset(token)

    def _answer(self, call: Call, value: Any, error: BaseException | None) -> None:
        if call.watch is not None:
            call.watch.end()
        if error is None:
            self.answer_value(call, value)
        else:
            self.answer_error(call, error)

    def answer_value(self, call: Call, value: Any, *, coalesce: bool = False) -> None:
        """Send the value of a call to whoever made it, or keep it until somebody fetches it."""
        link, want, number = call.link, call.want, call.number
        assert link is not None
        try:
            if want == WANT_NOTHING:
                return
            status = VALUE
            if want == WANT_FUTURE:
                self._node.references.settle((link.pid, number), value, None)
                payload, status = self._encode_small_result(value)
            else:
                payload = pickles.encode(value)
            if call.watch is not None:
                payload = call.watch.append_to(payload)
            self.post_answer(link, status, number, payload, coalesce)
        except SerializationError as error:
            self.answer_error(call, error)
        finally:
            link.running.pop(number, None)  # last: who waits for the end of all calls waits for their answers too

    def _encode_small_result(self, value: Any) -> tuple[Payload, int]:
        try:
            return pickles.encode(value, self._node.config.small_result), VALUE
        except (pickles.TooLarge, SerializationError):
            return Payload(b""), messages.STORED  # it may be used where it is, whether or not it can travel

    def answer_error(self, call: Call, error: BaseException) -> None:
        """Send the error of a call to whoever made it; of one that nobody waits for, print it on the master."""
        link = call.link
        assert link is not None
        try:
            if self._node.leaving:
                return
            if call.want == WANT_NOTHING:
                self.report(error)
                return
            if call.want == WANT_FUTURE:
                self._node.references.settle((link.pid, call.number), None, error)
            payload = encode_error(error, str(self._node.describe()))
            if call.watch is not None:
                payload = call.watch.append_to(payload)
            self.post_answer(link, messages.ERROR, call.number, payload)
        finally:
            link.running.pop(call.number, None)

    def post_answer(self, link: Link, status: int, number: CallId, payload: Payload, coalesce: bool = False) -> None:
        """Send an answer."""
        if self._node.leaving:
            return
        if self._node.trace is not None:
            self._node.trace.sent("answer", link.pid, link.pid, number, payload.size)
        try:
            if payload.buffers or payload.references:
                self._node.references.announce(payload, link.pid)
                link.post_payload(messages.RESULT, 0, status, number, payload)
                return
            frame = encode_small(messages.RESULT, 0, status, number, payload.body)
            if coalesce and link.decoder.holds_more() and len(link.out) < _MOST_WAITING:
                link.out.append(frame)  # the leader flushes when there is nothing more to read
            else:
                link.post(frame)
        except OSError:
            pass  # the reader finds the end of the connection

    def event_loop(self) -> EventLoop:
        """Return the runner of coroutines, started now if need be."""
        with self._starting:
            if self._loop is None:
                self._loop = EventLoop()
            return self._loop

    def report(self, error: BaseException) -> None:
        """Print an error on the master, because nobody else will see it."""
        self.report_encoded(encode_error(error, str(self._node.describe())).body)

    def report_encoded(self, body: Any) -> None:
        """Print an error that came as a payload on the master."""
        if self._node.pid == 1:
            print_failure(body)
        else:
            with contextlib.suppress(Exception):
                self._node.tell(1, print_failure, bytes(body))

    def close(self) -> None:
        """Stop running coroutines."""
        if self._loop is not None:
            self._loop.close()


def _end_watched(
    call: Call, watch: Stopwatch, finish: Callable[[Any, BaseException | None], None], value: Any, error: Any
) -> None:
    """Note the end of a call of this process to itself that a block counts; then settle it."""
    watch.end()
    watch.report("done" if error is None else "cancelled" if call.cancelled else "failed")
    finish(value, error)
