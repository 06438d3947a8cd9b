"""Reductions over a range whose function is compiled by Numba: the loop is compiled too.

The range is cut into parts, which are mapped like any items; a part is one call of a compiled loop on its worker.
"""

import functools
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .inputs import Source

_MOST_PARTS = 4096  # enough for any number of workers to finish together, and few enough to cost nothing


def add(left: Any, right: Any) -> Any:
    return left + right


def least(left: Any, right: Any) -> Any:
    return right if right < left else left


def greatest(left: Any, right: Any) -> Any:
    return right if right > left else left


class RangeParts(Source):
    """The parts of a range, in their order."""

    def __init__(self, whole: range) -> None:
        self._size = -(-len(whole) // _MOST_PARTS) or 1
        super().__init__([[whole[first : first + self._size] for first in range(0, len(whole), self._size)]])

    def describe(self, index: int) -> str:
        first = index * self._size
        return f"item {first} of the map" if self._size == 1 else f"an item from {first} to {first + self._size - 1}"


def compile_fold(
    function: Callable[..., Any], op: Callable[[Any, Any], Any], items: Iterable[Any]
) -> Callable[[range], Any] | None:
    """Return what folds a part of a range in one compiled loop, None if these are not such a function, op and range.

    What Numba cannot compile is folded item by item. Multiplication is not among the operations: of integers it
    would soon be wrong.
    """
    numba = sys.modules.get("numba")
    if numba is None or type(items) is not range or not isinstance(function, numba.core.dispatcher.Dispatcher):
        return None
    combine = _combine_for(op)
    if combine is None:
        return None
    compiled_combine = numba.njit(combine)

    @numba.njit  # type: ignore[untyped-decorator]
    def loop(start: int, stop: int, step: int) -> Any:
        total = function(start)
        for item in range(start + step, stop, step):
            total = compiled_combine(total, function(item))
        return total

    def fold(part: range) -> Any:
        try:
            return loop(part.start, part.stop, part.step)
        except numba.core.errors.NumbaError:
            return functools.reduce(op, map(function, part))

    return fold


def _combine_for(op: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any] | None:
    numpy: Any = sys.modules["numpy"]  # Numba has imported it
    known = ((operator.add, add), (numpy.add, add), (min, least), (max, greatest))
    return next((combine for each, combine in known if op is each), None)
