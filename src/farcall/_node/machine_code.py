"""The machine code of a cluster: a specialisation is compiled by one process and had by all.

The master keeps the code and knows who compiles what. Whoever needs a specialisation asks it (``prompt``), and gets
the code, or the task to compile it, or waits for whoever has that task. Numba's lock is held meanwhile; so a process
that compiles never waits itself, which would let two of them wait for each other.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._errors import ProcessExited
from .._types import CallId, ProcessId
from .._wire.compiled.shipping import Key, add_code, set_exchange, switch_off
from .current import find_node, shielded
from .prompt import Asker, await_outcome, notify, operate
from .slots import Slot

if TYPE_CHECKING:
    from .node import Node

PATIENCE = 60.0  # seconds that anybody waits for the code of another process
_Answer = tuple[Asker, bytes | None]  # None: compile it
_MOST_REFUSED = 10_000


class _Task:
    """A specialisation that a process compiles, and who waits for it."""

    __slots__ = ("holder", "since", "waiting")

    def __init__(self, holder: ProcessId, since: float) -> None:
        self.holder = holder
        self.since = since
        self.waiting: list[Asker] = []


class Codes:
    """What specialisations there are and who compiles others. Events in, answers out; times in seconds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._codes: OrderedDict[Key, bytes] = OrderedDict()  # oldest use first
        self._refused: OrderedDict[Key, None] = OrderedDict()  # cannot be compiled, or not be sent
        self._tasks: dict[Key, _Task] = {}

    def __repr__(self) -> str:
        return f"<Codes: {len(self._codes)} of {self._size} bytes, {len(self._tasks)} being compiled>"

    def ask(self, key: Key, asker: Asker, wait: bool, now: float) -> list[_Answer]:
        """Answer who needs a specialisation, now, or, if it waits and somebody else compiles it, later."""
        code = self._codes.get(key)
        if code is not None:
            self._codes.move_to_end(key)
            return [(asker, code)]
        task = self._tasks.get(key)
        if key in self._refused or (task is not None and not wait):
            return [(asker, None)]
        if task is None or now - task.since > PATIENCE or task.holder == asker.pid:
            self._entrust(key, asker, now, task.waiting if task is not None else [])
            return [(asker, None)]
        task.waiting.append(asker)
        return []

    def _entrust(self, key: Key, asker: Asker, now: float, waiting: list[Asker]) -> None:
        task = self._tasks[key] = _Task(asker.pid, now)
        task.waiting = waiting

    def put(self, key: Key, code: bytes | None) -> list[_Answer]:
        """Take in a specialisation; None: there is none, and whoever needs it tries by itself."""
        task = self._tasks.pop(key, None)
        if code is None:
            self._refused[key] = None
            if len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
        elif key not in self._codes:
            self._refused.pop(key, None)
            self._codes[key] = code
            self._size += len(code)
            while self._size > self._limit and len(self._codes) > 1:
                self._size -= len(self._codes.popitem(last=False)[1])
        return [(asker, code) for asker in task.waiting] if task is not None else []

    def withdraw(self, key: Key, pid: ProcessId, number: CallId, now: float) -> list[_Answer]:
        """Forget a process that waits no more for a specialisation, or does not go on to compile it."""
        task = self._tasks.get(key)
        if task is None:
            return []
        task.waiting = [each for each in task.waiting if (each.pid, each.number) != (pid, number)]
        return self._pass_on(key, task, now) if task.holder == pid else []

    def lose(self, pid: ProcessId, now: float) -> list[_Answer]:
        """Forget a process that is gone."""
        answers: list[_Answer] = []
        for key, task in list(self._tasks.items()):
            task.waiting = [each for each in task.waiting if each.pid != pid]
            if task.holder == pid:
                answers += self._pass_on(key, task, now)
        return answers

    def _pass_on(self, key: Key, task: _Task, now: float) -> list[_Answer]:
        """Have the next process compile what another has not."""
        if not task.waiting:
            del self._tasks[key]
            return []
        asker = task.waiting.pop(0)
        self._entrust(key, asker, now, task.waiting)
        return [(asker, None)]


class Library:
    """The exchange of a node: on the master the codes of the cluster, on a worker the way there."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._codes = Codes(node.config.machine_code)  # the master's
        if not node.config.machine_code:
            switch_off()
        self._lock = threading.Lock()
        self._holders: set[ProcessId] = set()  # that were seen
        node.observe(self)

    def handle(self, event: Callable[..., list[_Answer]], *args: Any) -> None:
        """Tell the codes of an event and deliver the answers. Any thread of the master; does not wait."""
        with self._lock:
            answers = event(self._codes, *args)
        for asker, code in answers:
            asker.finish(code, None)

    def ask(self, key: Key, asker: Asker, wait: bool) -> None:
        """Answer a process that needs a specialisation. One that is gone by now gets and compiles nothing."""
        self._holders.add(asker.pid)
        self.handle(Codes.ask, key, asker, wait, time.monotonic())
        if self._node.peers.reason(asker.pid) is not None:
            self.handle(Codes.lose, asker.pid, time.monotonic())

    def put(self, key: Key, code: bytes | None) -> None:
        """Hand in a specialisation that was compiled here."""
        with shielded():
            try:
                notify(self._node, 1, _put, *key, code)
            except (ProcessExited, OSError, LookupError):
                pass  # without the master there is nobody to give it to

    def get(self, key: Key, wait: bool) -> bytes | None:
        """Return a specialisation that another process has compiled, or compiles now; None: compile it."""
        node, slot = self._node, Slot()
        link, number = None, 0
        with shielded():
            try:
                link, number = operate(node, 1, slot, _ask, *key, wait)
                await_outcome(node, slot, link, time.monotonic() + PATIENCE)
                code: bytes | None = node.open_slot(slot)
                return code
            except (ProcessExited, OSError, LookupError):
                return None
            except BaseException as error:
                if link is not None:
                    node.cancel(link, number)
                self._withdraw(key, number)
                if isinstance(error, TimeoutError):
                    return None
                raise

    def _withdraw(self, key: Key, number: CallId) -> None:
        try:
            notify(self._node, 1, _withdraw, *key, number)
        except (ProcessExited, OSError, LookupError):
            pass

    def on_members_changed(self) -> None:
        """Pass on what a process was to compile that is gone."""
        for pid in [each for each in list(self._holders) if self._node.peers.reason(each) is not None]:
            self._holders.discard(pid)
            self.handle(Codes.lose, pid, time.monotonic())


# Operations on the master


def _ask(node: "Node", asker: Asker, *args: Any) -> None:
    *key, wait = args
    node.library.ask(Key(*key), asker, wait)


def _put(node: "Node", asker: Asker, *args: Any) -> None:
    *parts, code = args
    key = Key(*parts)
    if code is not None:
        add_code(key, code)
    node.library.handle(Codes.put, key, code)


def _withdraw(node: "Node", asker: Asker, *args: Any) -> None:
    *key, number = args
    node.library.handle(Codes.withdraw, Key(*key), asker.pid, number, time.monotonic())


def _library() -> Library | None:
    node = find_node()
    return node.library if node is not None and not node.closed else None


set_exchange(_library)
