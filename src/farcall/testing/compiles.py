"""How often did Numba compile, anywhere in the cluster?"""

from types import TracebackType

from .._errors import ProcessExited
from .._node.current import find_node
from .._types import ProcessId
from .._wire.compiled.counting import what_was_compiled


class assert_compiles:
    """A ``with`` block in which Numba compiles ``n`` specialisations, on all processes together; else AssertionError.

    A specialisation is one function for one set of argument types; those of functions that it calls, and attempts
    that fail, count too, and machine code that came from another process does not. The error lists what was compiled.
    Workers that join in the block count; where one ended in it, what that compiled is not known, which is an error
    too. Blocks while it asks all processes.

    >>> from numba import njit
    >>> from farcall.testing import assert_compiles
    >>> @njit
    ... def double(x):
    ...     return 2 * x
    >>> with assert_compiles(2):
    ...     double(1), double(1.5), double(2)
    (2, 3.0, 4)
    """

    def __init__(self, n: int) -> None:
        if type(n) is not int or n < 0:
            raise ValueError(f"assert_compiles({n!r}): write how many compilations are expected, 0 or more")
        self._expected = n
        self._before: dict[ProcessId, int] = {}
        self._exited: set[ProcessId] = set()

    def __enter__(self) -> "assert_compiles":
        self._exited = _exited()
        self._before = {pid: count for pid, (count, _) in _ask_all().items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            return
        after = _ask_all()
        for pid in _exited() - self._exited:
            raise AssertionError(f"{_name(pid)} has ended, and what it compiled is not known")
        made = [
            f"{what} on {_name(pid)}"
            for pid, (count, latest) in sorted(after.items())
            for what in _last(latest, count - self._before.get(pid, 0))
        ]
        if len(made) != self._expected:
            listed = "".join(f"\n  {each}" for each in made)
            raise AssertionError(f"{self._expected} compilations were expected and {len(made)} happened{listed}")


def _last(latest: list[str], count: int) -> list[str]:
    """Return the last so many names; of those that are not remembered any more, that they were."""
    return ["something"] * (count - len(latest)) + latest[len(latest) - min(count, len(latest)) :]


def _name(pid: ProcessId) -> str:
    return "the master" if pid == 1 else f"worker {pid}"


def _exited() -> set[ProcessId]:
    node = find_node()
    return set(node.peers.exited()) if node is not None else set()


def _ask_all() -> dict[ProcessId, tuple[int, list[str]]]:
    """Return what every process has compiled so far."""
    node = find_node()
    if node is None:
        return {1: what_was_compiled()}
    told = {}
    for pid in node.peers.pids():
        try:
            told[pid] = node.ask(pid, what_was_compiled)
        except ProcessExited:
            continue
    return told
