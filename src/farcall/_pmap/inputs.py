"""The items of a map, drawn as they are needed."""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_PATIENCE = 2e-3  # seconds to draw from what may be slow, then the batch goes with what there is
_LOOK = 16  # items between two looks at the clock


class Source:
    """What one iterable yields, or tuples of what several yield, to the end of the shortest.

    Parts of a range and of an array travel as such, an array's items being its rows.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        if not iterables:
            raise TypeError("there is nothing to map over: write pmap(f, iterable)")
        self.spread = len(iterables) > 1
        self.size = _shortest(iterables)
        self._sliced: Any = iterables[0] if not self.spread and _is_sliced(iterables[0]) else None
        self._drawn = 0
        self._iterator: Iterator[Any] = iter(zip(*iterables, strict=False) if self.spread else iterables[0])

    def describe(self, index: int) -> str:
        """Return the name of an item, for an error message."""
        return f"item {index} of the map"

    def draw(self, count: int) -> Sequence[Any]:
        """Return up to ``count`` items, none at the end."""
        if self._sliced is not None:
            part: Sequence[Any] = self._sliced[self._drawn : self._drawn + count]
            self._drawn += len(part)
            return part
        if self.size is not None:
            return list(itertools.islice(self._iterator, count))
        items = list[Any]()
        deadline = time.monotonic() + _PATIENCE
        while len(items) < count and (not items or time.monotonic() < deadline):
            more = list(itertools.islice(self._iterator, min(_LOOK if items else 1, count - len(items))))
            if not more:
                break
            items += more
        return items


def _shortest(iterables: Sequence[Iterable[Any]]) -> int | None:
    """Return how many items there are at most, None if nobody knows."""
    sizes = [len(each) for each in iterables if hasattr(type(each), "__len__")]  # type: ignore[arg-type]
    return min(sizes, default=None)


def _is_sliced(items: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return type(items) is range or (numpy is not None and type(items) is numpy.ndarray and items.ndim > 0)
