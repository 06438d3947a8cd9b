"""Reductions over a range with a function that Numba has compiled."""

import functools
import operator

import numba
import numpy as np
import pytest

import farcall as fc
from farcall._pmap.compiled import compile_fold
from farcall.testing import assert_compiles


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


@numba.njit
def reciprocal(n):
    return 1.0 / (n + 1)


@numba.njit
def rotation(n):
    return np.exp(1j * n)


@numba.njit
def larger_by_size(left, right):
    return right if abs(right) > abs(left) else left


@pytest.mark.parametrize("items", [range(1), range(10), range(100_000), range(50, -50, -3)])
@pytest.mark.parametrize("op", [operator.add, np.add, min, max, np.maximum, larger_by_size])
def test_a_compiled_reduction_is_the_reduction(cluster, op, items):
    """Whatever the range and the operation, the value is that of functools.reduce."""
    assert compile_fold(square, op, items) is not None
    assert fc.pmapreduce(square, op, items) == functools.reduce(op, map(square.py_func, items))


def test_a_billion_items_are_no_matter(cluster):
    """The loop is compiled: nobody makes a list of the items, or a call for each."""
    assert fc.pmapreduce(is_odd, operator.add, range(10**9)) == 5 * 10**8


@pytest.mark.parametrize("op", [operator.add, operator.mul, min, np.multiply, larger_by_size])
def test_the_value_does_not_depend_on_the_workers(op):
    """On one worker, on three, or here alone: the same bits."""
    items = range(100_003)
    values = []
    for count in (1, 3):
        with fc.addprocs(count):
            values.append(fc.pmapreduce(reciprocal, op, items))
    values.append(fc.pmapreduce(reciprocal, op, items))  # here, alone
    assert len({float(value).hex() for value in values}) == 1
    assert values[0] == pytest.approx(functools.reduce(op, map(reciprocal.py_func, items)), rel=1e-10)


def test_the_loop_is_compiled_once_in_the_cluster(cluster):
    """By one worker, for all, and for the next reduction of this function."""
    f = numba.njit(lambda n: n % 7)
    with assert_compiles(3):  # the loop, the function, the operation
        assert fc.pmapreduce(f, operator.add, range(10_000)) == sum(n % 7 for n in range(10_000))
    with assert_compiles(0):
        assert fc.pmapreduce(f, operator.add, range(50_000)) == sum(n % 7 for n in range(50_000))


@pytest.mark.parametrize("items", [range(1, 15), range(1, 100), range(-40, 41), range(1, 20_000, 50)])
def test_a_product_of_integers_is_exact(cluster, items):
    """Whether or not it has room in a machine's integer; a sum wraps around, as NumPy's does."""
    assert compile_fold(square, operator.mul, items) is not None
    assert fc.pmapreduce(square, operator.mul, items) == functools.reduce(operator.mul, (n * n for n in items))


def test_a_product_just_beyond_the_integers(cluster):
    """2**63 does not fit."""
    double = numba.njit(lambda n: 2)
    assert fc.pmapreduce(double, operator.mul, range(62 * 4096)) == 2 ** (62 * 4096)
    assert fc.pmapreduce(double, operator.mul, range(63 * 4096)) == 2 ** (63 * 4096)
    assert fc.pmapreduce(double, operator.mul, range(64 * 4096)) == 2 ** (64 * 4096)


def test_products_of_other_numbers(cluster):
    """Infinities, numbers that are none, and complex numbers are no overflow."""
    assert fc.pmapreduce(rotation, operator.mul, range(50)) == pytest.approx(np.exp(1j * sum(range(50))))
    large = numba.njit(lambda n: 1e300)
    assert fc.pmapreduce(large, operator.mul, range(50_000)) == float("inf")
    none = numba.njit(lambda n: np.nan)
    assert np.isnan(fc.pmapreduce(none, operator.mul, range(50_000)))


def test_what_numba_cannot_compile_goes_item_by_item(cluster):
    """A fold that has no machine type is done in Python; so are other functions, operations and items."""
    assert len(fc.pmapreduce(both, operator.add, range(50))) == 100
    assert fc.pmapreduce(square, lambda left, right: max(left, right), range(-3, 3)) == 9
    assert compile_fold(square, lambda left, right: left, range(3)) is None
    assert compile_fold(square, functools.partial(max, key=abs), range(3)) is None
    assert compile_fold(square, operator.mul, [1, 2]) is None
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
