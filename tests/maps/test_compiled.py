"""Reductions over a range with a function that Numba has compiled."""

import functools
import operator

import numba
import numpy as np
import pytest

import farcall as fc
from farcall._pmap.compiled import compile_fold


@numba.njit
def square(n):
    return n * n


@numba.njit
def is_odd(n):
    return n % 2 == 1


@numba.njit
def both(n):
    return n, -n


@numba.njit
def inverse(n):
    return 10 // n


@pytest.mark.parametrize("items", [range(1), range(10), range(100_000), range(50, -50, -3)])
@pytest.mark.parametrize("op", [operator.add, np.add, min, max])
def test_a_compiled_reduction_is_the_reduction(cluster, op, items):
    """Whatever the range and the operation, the value is that of functools.reduce."""
    assert compile_fold(square, op, items) is not None
    assert fc.pmapreduce(square, op, items) == functools.reduce(op, map(square.py_func, items))


def test_a_billion_items_are_no_matter(cluster):
    """The loop is compiled: nobody makes a list of the items, or a call for each."""
    assert fc.pmapreduce(is_odd, operator.add, range(10**9)) == 5 * 10**8


def test_what_numba_cannot_compile_goes_item_by_item(cluster):
    """A fold that has no machine type is done in Python; so are other functions, operations and items."""
    assert len(fc.pmapreduce(both, operator.add, range(50))) == 100
    assert fc.pmapreduce(square, operator.mul, range(1, 30)) == functools.reduce(
        operator.mul, (n * n for n in range(1, 30))
    )
    assert compile_fold(square, operator.mul, range(3)) is None
    assert compile_fold(square, operator.add, [1, 2]) is None
    assert compile_fold(abs, operator.add, range(3)) is None


def test_a_compiled_reduction_of_nothing(cluster):
    """Empty ranges are empty."""
    assert fc.pmapreduce(square, operator.add, range(0), init=3) == 3
    with pytest.raises(TypeError, match="init="):
        fc.pmapreduce(square, operator.add, range(0))
    assert fc.pmapreduce(square, operator.add, range(4), init=1) == 15


def test_an_error_in_a_compiled_loop(cluster):
    """It is raised as it is, and the note names the item, or the part of the range."""
    with pytest.raises(ZeroDivisionError) as caught:
        fc.pmapreduce(inverse, operator.add, range(-3, 3))
    assert "item 3 of the map" in caught.value.__notes__
    with pytest.raises(ZeroDivisionError) as caught:
        fc.pmapreduce(inverse, operator.add, range(-9000, 9000))
    assert "an item from 9000 to 9004" in caught.value.__notes__
