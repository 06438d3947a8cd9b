"""Calls to other processes: spawnat, remotecall_fetch, remote_do, remote, fetch, wait, isready, everywhere."""

import ast
import concurrent.futures
import functools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeAlias, TypeVar, overload

from .._errors import ProcessExited
from .._node.current import current_node, find_node, main_namespace, running_call, shielded
from .._node.node import Node
from .._types import P, ProcessId, R
from .._wire.messages import WANT_FUTURE
from .._wire.pickles import import_from_above
from .channel import RemoteChannel
from .future import Future
from .metered import counted_from_now
from .owner import is_ready as _is_ready_here

F = TypeVar("F", bound=Callable[..., Any])

_PLACES = "write a process id, 'any', a WorkerPool, a Future or a RemoteChannel"


class Place(ABC):
    """Where a call may go that is not simply a process, such as a pool."""

    @abstractmethod
    def place(self, future: Future[Any], begin: Callable[[ProcessId], None]) -> None:
        """Call ``begin`` with a process as soon as one may take the call; may return before."""


Where: TypeAlias = "ProcessId | str | Future[Any] | RemoteChannel[Any] | Place"


def _begin(node: Node, pid: ProcessId, future: Future[R], function: Any, args: Any, kwargs: Any) -> None:
    """Start the call of a Future on a process, unless it has been cancelled while it waited for one."""
    if future.settled:
        return
    future._where = pid
    future._created = True  # its owner counts us as a holder from the call on
    parent = running_call()
    if parent is None:
        future.belong(*node.start(pid, future, function, args, kwargs, WANT_FUTURE))
        return
    with shielded():
        link, number = node.start(pid, future, function, args, kwargs, WANT_FUTURE)
        parent.add_child(link, number)
        future.belong(link, number)


def spawnat(where: Where, f: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
    """Start ``f(*args, **kwargs)`` on another process and return its Future at once.

    ``where`` is a process id, ``"any"`` (the worker with the fewest calls under way from here), a ``WorkerPool``
    (one call per free worker, the rest wait), or a Future or RemoteChannel (the call runs where its value lives).
    What cannot be pickled is a ``SerializationError`` here, and nothing is sent. Calls to one process start in the
    order in which they were sent, and run concurrently. Julia: ``@spawnat``, ``remotecall``.

    >>> from farcall import fetch, spawnat
    >>> fetch(spawnat(2, pow, 2, 10))
    1024
    """
    node = current_node()
    if type(where) is int:
        future: Future[R] = Future(node, where)
        _begin(node, where, future, f, args, kwargs)
        return future
    place = locate(where)
    if isinstance(place, Place):
        future = Future(node)
        begin = counted_from_now(lambda pid: _begin(node, pid, future, f, args, kwargs))
        place.place(future, node.cells.kept(begin))
        return future
    future = Future(node, place)
    _begin(node, place, future, f, args, kwargs)
    return future


def remotecall_fetch(where: Where, f: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``f(*args, **kwargs)`` on another process and return its value: one message each way, the quickest call.

    Blocks. Raises what ``f`` raised, with a note that says where. Ctrl-C cancels the call. Julia: the same name.

    >>> from farcall import remotecall_fetch
    >>> remotecall_fetch(2, divmod, 17, 5)
    (3, 2)
    """
    place = where if type(where) is int else locate(where)
    if isinstance(place, Place):
        return spawnat(place, f, *args, **kwargs).result()
    value: R = current_node().ask(place, f, *args, **kwargs)
    return value


def remote_do(where: Where, f: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Start ``f(*args, **kwargs)`` on another process, for its effect; no answer comes.

    If it fails the error is printed on the master's stderr and logged there. Julia: the same name.
    """
    node = current_node()
    place = where if type(where) is int else locate(where)
    if isinstance(place, Place):
        sent = Future[None](node)

        def begin(pid: ProcessId) -> None:
            node.tell(pid, f, *args, **kwargs)
            sent.finish(None, None)

        place.place(sent, node.cells.kept(counted_from_now(begin)))
        return
    node.tell(place, f, *args, **kwargs)


def remote(f: Callable[P, R], where: Where = "any") -> Callable[P, R]:
    """Return a function that runs ``f`` on a worker and returns its value. Julia: ``remote([pool,] f)``.

    >>> from farcall import remote
    >>> remote(abs)(-3)
    3
    """

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return remotecall_fetch(where, f, *args, **kwargs)

    return call


@functools.singledispatch
def locate(where: Any) -> ProcessId | Place:
    """Return the process, or the Place, that ``where`` means now; for types of other libraries see ``register``.

    TypeError for what means none, ValueError for a wrong name.
    """
    if isinstance(where, Place):
        return where
    if isinstance(where, bool):
        raise TypeError(f"where={where!r} is no process; procs() lists them")
    if isinstance(where, int):
        return where
    if isinstance(where, str):
        if where != "any":
            raise ValueError(f"where={where!r}: {_PLACES}")
        return least_loaded(current_node())
    pid = getattr(where, "where", None)
    if isinstance(pid, int):
        return pid
    raise TypeError(f"where={where!r} is no process: {_PLACES}")


def least_loaded(node: Node) -> ProcessId:
    """Return the worker with the fewest calls under way from this process; the master when it is alone."""
    workers = [pid for pid in node.peers.willing() if pid != 1] or [1]
    node.turn += 1  # among equals they take turns
    start = node.turn % len(workers)
    links = node.links
    return min(workers[start:] + workers[:start], key=lambda pid: len(links[pid].pending) if pid in links else 0)


def fetch(x: Any) -> Any:
    """Return the value of a Future, waiting for it, or the first item of a RemoteChannel, which stays there.

    Anything that is no reference is returned as it is. Raises what the call raised. Julia: the same name.
    """
    if isinstance(x, RemoteChannel):
        return x.peek()
    return x.result() if isinstance(x, concurrent.futures.Future) else x


def wait(x: Any, timeout: float | None = None) -> Any:
    """Block until the value of a Future exists, or a RemoteChannel has an item, and return it; no value travels.

    Raises what the call raised; TimeoutError after ``timeout`` seconds. Julia: the same name.
    """
    if isinstance(x, Future):
        x._wait_until_ready(timeout)
        if x._is_failed():
            x.result()
    elif isinstance(x, concurrent.futures.Future):
        x.result(timeout)
    elif isinstance(x, RemoteChannel):
        x._account.wait(timeout)
    return x


def isready(x: Any) -> bool:
    """Return whether the value of a Future exists, or a RemoteChannel has an item; asks its owner if need be.

    Julia: the same name.
    """
    if isinstance(x, RemoteChannel):
        return x.isready()
    if not isinstance(x, Future):
        return not isinstance(x, concurrent.futures.Future) or x.done()
    if x.settled or x._hold is None:
        return x.done()
    ref = x._hold.creator, x._hold.number
    ready: bool = x._node.ask(x._hold.owner, _is_ready_here, ref)
    return ready


# everywhere


@overload
def everywhere(what: F, /, *, pids: None = None) -> F: ...
@overload
def everywhere(what: str | ModuleType, /, *, pids: Iterable[ProcessId] | ProcessId | None = None) -> Any: ...
@overload
def everywhere(what: None = None, /, *, pids: Iterable[ProcessId] | ProcessId | None = None) -> Callable[[F], F]: ...
@overload
def everywhere(what: F, /, *, pids: Iterable[ProcessId] | ProcessId) -> F: ...
def everywhere(what: Any = None, /, *, pids: Iterable[ProcessId] | ProcessId | None = None) -> Any:
    """Define or run something in ``__main__`` of every process, now and on workers that join later.

    A function or class is defined there under its name (and returned, so this is a decorator); a string is run as
    code; a module is imported and bound. Blocks until all have done it. With ``pids`` only there, and not on later
    workers; with one pid the value of the string's last expression is returned and its error raised as it is.
    Errors from several processes come as one ``ExceptionGroup``, and what failed is not repeated on later workers.
    Julia: ``@everywhere``.
    """
    if what is None:
        return functools.partial(everywhere, pids=pids)
    node = current_node()
    action = _action(what)
    if isinstance(pids, int):
        value = node.ask(pids, *action) if pids != node.pid else action[0](*action[1:])
        return value if isinstance(what, str) else what
    if pids is not None:
        run_on(node, list(pids), action)
    else:
        with node.joining:  # who joins meanwhile would be missed by both
            run_on(node, node.peers.pids(), action)
            remember(node, action)
    return None if isinstance(what, (str, ModuleType)) else what


def _action(what: Any) -> tuple[Any, ...]:
    """Return the function that does it on a process, with its arguments."""
    if isinstance(what, str):
        compile(what, "<everywhere>", "exec")  # a SyntaxError is raised here, and once
        return run_code, what
    if isinstance(what, ModuleType):
        return bind_module, what.__name__
    name = getattr(what, "__name__", None)
    if not callable(what) or name is None:
        raise TypeError(
            f"everywhere takes a function, a class, a string of code or a module, not {type(what).__name__}"
        )
    return define, name, what


def run_on(node: Node, pids: Sequence[ProcessId], action: tuple[Any, ...]) -> None:
    """Run an action on processes at once, this one last, and wait for all; their errors as one."""
    futures: list[tuple[ProcessId, Future[Any]]] = []
    for pid in pids:
        try:
            if pid != node.pid:
                futures.append((pid, spawnat(pid, *action)))
        except ProcessExited as error:
            if error.pid != pid:
                raise
    errors: list[BaseException] = []
    if node.pid in pids:
        try:
            action[0](*action[1:])
        except Exception as error:
            errors.append(error)
    for pid, future in futures:
        try:
            future.result()
        except ProcessExited as error:
            if error.pid != pid:
                errors.append(error)  # one that leaves meanwhile needs nothing
        except Exception as error:
            errors.append(error)
    if len(pids) == 1 and errors:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"everywhere failed on {len(errors)} of {len(pids)} processes", errors)  # type: ignore[type-var]


def remember(node: Node, action: tuple[Any, ...]) -> None:
    """Have an action repeated on workers that join later; the master keeps the list."""
    if node.pid == 1:
        add_to_journal(*action)
    else:
        node.ask(1, add_to_journal, *action)


def add_to_journal(*action: Any) -> None:
    """Keep an action for later workers; runs on the master. A new definition replaces the one of that name."""
    journal = current_node().journal
    if action[0] is define:
        journal[:] = [each for each in journal if each[:2] != action[:2]]
    journal.append(action)


def define(name: str, what: Any) -> None:
    """Bind a name in ``__main__`` of this process."""
    main = main_namespace()
    if main.get(name) is not what:
        main[name] = what


def bind_module(name: str) -> None:
    """Import a module and bind its top-level package in ``__main__`` of this process."""
    import_from_above(name)
    top = name.partition(".")[0]
    main_namespace()[top] = sys.modules[top]


def run_code(code: str) -> Any:
    """Run code in ``__main__`` of this process and return the value of its last line if that is an expression."""
    namespace = main_namespace()
    tree = ast.parse(code, "<everywhere>")
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, "<everywhere>", "exec"), namespace)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "<everywhere>", "eval"), namespace)


# Who am I


def myid() -> ProcessId:
    """Return the id of this process: 1 for the master, also before there are workers. Julia: the same name."""
    node = find_node()
    return node.pid if node is not None else 1
