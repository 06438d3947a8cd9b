"""The items of a map, drawn as they are needed."""

import itertools
import time

import numpy as np
import pytest

from farcall._pmap.inputs import Source


def drawn(source, size=7):
    """Return everything that a source gives, in parts."""
    return list(iter(lambda: list(source.draw(size)), []))


@pytest.mark.parametrize(
    "make", [lambda: range(30), lambda: list(range(30)), lambda: iter(range(30)), lambda: set("abc")]
)
def test_a_source_gives_each_item_once_in_order(make):
    """Whatever the iterable, the parts together are its items."""
    assert list(itertools.chain(*drawn(Source([make()])))) == list(make())


def test_parts_of_ranges_and_arrays_travel_as_such():
    """A part of a range is a range, and a part of an array is a view."""
    array = np.arange(20.0).reshape(10, 2)
    assert Source([range(0, 100, 2)]).draw(3) == range(0, 6, 2)
    part = Source([array]).draw(3)
    assert part.base is not None
    assert np.shares_memory(part, array)
    assert len(part) == 3


def test_the_shortest_iterable_says_how_many():
    """The size is that of the shortest of those that have one."""
    assert Source([range(10), "abc"]).size == 3
    assert Source([itertools.count(), [1, 2]]).size == 2
    assert Source([itertools.count()]).size is None
    assert drawn(Source([range(10), "abc"])) == [[(0, "a"), (1, "b"), (2, "c")]]


def test_a_slow_iterator_is_not_waited_for_until_a_batch_is_full():
    """From what takes its time to yield come small parts."""

    def slowly():
        for n in range(20):
            until = time.monotonic() + 0.003
            while time.monotonic() < until:
                pass
            yield n

    parts = drawn(Source([slowly()]), 1000)
    assert len(parts) > 1
    assert list(itertools.chain(*parts)) == list(range(20))
