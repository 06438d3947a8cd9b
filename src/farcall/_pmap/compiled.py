"""Reductions over a range whose function is compiled by Numba: the loop is compiled too.

The range is cut into parts, which are mapped like any items; a part is one call of a compiled loop on its worker, and
what the parts come to is combined here, in their order. The parts depend on the range alone, so the value does not
depend on how many workers there are, to the last bit.
"""

import functools
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .inputs import Source

_MOST_PARTS = 4096  # enough for any number of workers to finish together, and few enough to cost nothing
_MOST_LOOPS = 32  # that are remembered, with their functions


def add(left: Any, right: Any) -> Any:
    return left + right


def multiply(left: Any, right: Any) -> Any:
    """Return the product; of integers that have no room for it, OverflowError."""
    product = left * right
    expected = (left * 1.0) * right
    if abs(product - expected) > 1e-6 * abs(expected):
        raise OverflowError
    return product


def least(left: Any, right: Any) -> Any:
    return right if right < left else left


def greatest(left: Any, right: Any) -> Any:
    return right if right > left else left


_COMBINE = {operator.add: add, operator.mul: multiply, min: least, max: greatest}


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

    What Numba cannot compile, and what has no room in a machine's integers, is folded item by item.
    """
    numba = sys.modules.get("numba")
    if numba is None or type(items) is not range or not isinstance(function, numba.core.dispatcher.Dispatcher):
        return None
    try:
        loop = _loop_of(function, op)
    except TypeError:  # an op that cannot be hashed
        return None
    if loop is None:
        return None

    def fold(part: range) -> Any:
        try:
            return loop(part.start, part.stop, part.step)
        except (numba.core.errors.NumbaError, OverflowError):
            return functools.reduce(op, map(function, part))

    return fold


@functools.lru_cache(_MOST_LOOPS)  # the same loop, so that its machine code is used again
def _loop_of(function: Callable[..., Any], op: Callable[[Any, Any], Any]) -> Callable[..., Any] | None:
    import numba

    combine = _combine_for(op)
    if combine is None:
        return None

    @numba.njit
    def loop(start: int, stop: int, step: int) -> Any:
        total = function(start)
        for item in range(start + step, stop, step):
            total = combine(total, function(item))
        return total

    compiled: Callable[..., Any] = loop
    return compiled


def _combine_for(op: Callable[[Any, Any], Any]) -> Callable[..., Any] | None:
    """Return a function that compiled code can call in the place of an operation; None if there is none."""
    import numba
    import numpy

    if isinstance(op, numba.core.dispatcher.Dispatcher):
        return op
    if isinstance(op, numpy.ufunc):
        known: Any = lambda left, right: op(left, right)  # noqa: E731
    else:
        known = _COMBINE.get(op)
    compiled: Callable[..., Any] | None = numba.njit(known) if known is not None else None
    return compiled
