"""Folding the results of a map, in index order."""

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


def fold_with(op: Callable[[Any, Any], Any]) -> Callable[[Iterable[Any]], Any]:
    """Return what folds values in their order, on a worker."""
    return functools.partial(functools.reduce, op)


def forget(values: Iterable[Any]) -> None:
    """Fold values to nothing."""
    deque(values, maxlen=0)


class Folded:
    """Folds of neighbouring items, joined as soon as they meet. What comes in any order is combined in index order."""

    def __init__(self, op: Callable[[Any, Any], Any]) -> None:
        self._op = op
        self._by_start: dict[int, tuple[int, Any]] = {}  # where each ends, and its value
        self._by_stop: dict[int, int] = {}  # where each that ends there starts

    def __repr__(self) -> str:
        return f"<Folded {[(start, stop) for start, (stop, _) in sorted(self._by_start.items())]}>"

    def add(self, start: int, stop: int, value: Any) -> None:
        """Take in the fold of the items from ``start`` up to ``stop``."""
        if start in self._by_stop:
            before = self._by_stop.pop(start)
            _, left = self._by_start.pop(before)
            start, value = before, self._op(left, value)
        if stop in self._by_start:
            after, right = self._by_start.pop(stop)
            del self._by_stop[after]
            stop, value = after, self._op(value, right)
        self._by_start[start] = stop, value
        self._by_stop[stop] = start

    def total(self) -> list[Any]:
        """Return the fold of everything in a list, which is empty if there was nothing."""
        assert len(self._by_start) <= 1, "a gap was never filled"
        return [value for _, value in self._by_start.values()]
