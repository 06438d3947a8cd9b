# ruff: noqa: F811
"""Generic functions of plum dispatch elsewhere as they do here."""

import functools
import importlib
import sys

import cloudpickle
import numpy as np
import pytest
from plum import Dispatcher, NotFoundLookupError, add_conversion_method, dispatch

import farcall as fc
from farcall._wire import generic, uses


@pytest.fixture(scope="module", autouse=True)
def by_value():
    """What this module defines goes by value, as what a notebook defines does."""
    module = sys.modules[__name__]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(uses._by_value, __name__, True)
        cloudpickle.register_pickle_by_value(module)
        yield
        cloudpickle.unregister_pickle_by_value(module)


class Shape:
    def __init__(self, size):
        self.size = size


class Label(str):
    __slots__ = ()


class Circle(Shape):
    pass


class Square(Shape):
    pass


@pytest.fixture
def area():
    """A generic function with two methods, of a dispatcher of its own."""
    own = Dispatcher()

    @own
    def area(shape: Circle):
        return 3 * shape.size**2

    @own
    def area(shape: Square):
        return shape.size**2

    return area


@pytest.mark.parametrize(
    "call",
    [
        lambda f: fc.remotecall_fetch(2, f, Square(3)),
        lambda f: fc.remotecall_fetch(2, functools.partial(f, Square(3))),
        lambda f: fc.remotecall_fetch(2, lambda: f(Square(3))),
        lambda f: fc.remotecall_fetch(2, lambda functions: functions["f"](Square(3)), {"f": f}),
        lambda f: fc.pmap(f, [Circle(1), Square(3)])[1],
        lambda f: fc.remotecall_fetch(2, lambda: fc.remotecall_fetch(3, f, Square(3))),
    ],
)
def test_it_travels_wherever_a_function_does(cluster, area, call):
    """As what is called, in partials, closures, arguments and maps, and from worker to worker."""
    assert call(area) == 9


def test_all_that_decides_on_a_method_counts(cluster):
    """Subclasses, unions, precedence, default values, further arguments; types of values; and what no method takes."""
    own = Dispatcher()
    add_conversion_method(str, Label, Label)
    fc.remotecall_fetch(2, add_conversion_method, str, Label, Label)

    @own
    def f(x: int):
        return "before"

    @own
    def f(x: int, y: int = 1, *more: int) -> Label:
        return f"{x} {y} {more}"

    @own
    def f(x: int):
        return "one"

    @own
    def f(x: Circle | str):
        return "union"

    @own(precedence=1)
    def f(x: Shape, y: object):
        return "first"

    @own
    def f(x: object, y: Square):
        return "second"

    @own.multi((list, list), (tuple, tuple))
    def f(x, y):
        return "both"

    calls = [(1,), (1, 2), (1, 2, 3), ("a",), (Circle(1),), (Circle(1), Square(1)), (1, Square(1)), ([], []), ((), ())]
    there = fc.remotecall_fetch(2, lambda: [f(*each) for each in calls])
    assert there == [f(*each) for each in calls]
    assert there == ["one", "1 2 ()", "1 2 (3,)", "union", "union", "first", "second", "both", "both"]
    assert type(there[1]) is Label
    with pytest.raises(NotFoundLookupError, match="could not be resolved"):
        fc.remotecall_fetch(2, f, [])


def test_functions_that_call_each_other(cluster):
    """Also in a circle, and whichever of them goes first, or alone to somebody else."""
    own = Dispatcher()

    @own
    def total(shapes: list):
        return sum(weight(each) for each in shapes)

    @own
    def weight(shape: Square):
        return shape.size

    @own
    def weight(shapes: list):
        return total(shapes)

    assert fc.remotecall_fetch(2, total, [Square(1), [Square(2)]]) == 3
    assert fc.remotecall_fetch(3, weight, [Square(1), [Square(2)]]) == 3


def test_everywhere_defines_it_and_adds_to_it(cluster):
    """Methods that come later are added, or take the place of older ones, on all workers, those that join, too."""

    @fc.everywhere
    @dispatch
    def perimeter_of_test(shape: Circle):
        return 6 * shape.size

    assert fc.everywhere("perimeter_of_test", pids=2) is not None
    before = [fc.everywhere("id(perimeter_of_test)", pids=pid) for pid in cluster]

    @fc.everywhere
    @dispatch
    def perimeter_of_test(shape: Square):
        return 4 * shape.size

    @fc.everywhere
    @dispatch
    def perimeter_of_test(shape: Circle):
        return 6.28 * shape.size

    def by_name(shape):
        return sys.modules["__main__"].perimeter_of_test(shape)

    with fc.addprocs(1) as late:
        for pid in (*cluster, *late):
            assert [fc.remotecall_fetch(pid, by_name, each(1)) for each in (Circle, Square)] == [6.28, 4]
            assert fc.everywhere("len(perimeter_of_test.methods)", pids=pid) == 2
    assert [fc.everywhere("id(perimeter_of_test)", pids=pid) for pid in cluster] == before
    fc.everywhere("from plum import dispatch\n@dispatch\ndef perimeter_of_test(shape: str): return 0")
    assert fc.everywhere("perimeter_of_test('')", pids=2) == 0
    del sys.modules["__main__"].perimeter_of_test


def test_methods_use_what_is_there_at_each_call(cluster):
    """What a method uses may change; while it does not, nothing is registered again, and no function is made."""
    own, factor = Dispatcher(), 2

    @own
    def scaled(x: int):
        return factor * x

    def count():
        version = generic._here.versions[generic._here.identities[scaled]]
        return version, len(type(scaled)._instances), len(scaled.methods)

    assert [fc.remotecall_fetch(2, scaled, 1) for _ in range(3)] == [2, 2, 2]
    version, *before = fc.remotecall_fetch(2, count)
    factor = 3
    assert [fc.remotecall_fetch(2, scaled, 1) for _ in range(3)] == [3, 3, 3]
    factor = 2
    assert fc.remotecall_fetch(2, scaled, 1) == 2
    assert fc.remotecall_fetch(2, count) == (version + 2, *before)
    assert fc.remotecall_fetch(2, lambda: id(scaled)) == fc.remotecall_fetch(2, lambda: id(scaled))


def test_what_comes_home_is_itself(cluster, area):
    """And as it is now, not as it was when it went."""
    assert fc.remotecall_fetch(2, lambda: area) is area
    going = fc.spawnat(2, lambda: (area, area(Square(2))))
    fc.wait(going)
    area.register(lambda shape: -shape.size, signature=next(iter(area.methods[1:])).signature)
    assert fc.fetch(going) == (area, 4)
    assert area(Square(2)) == -2
    assert fc.remotecall_fetch(2, area, Square(2)) == -2


MODULE = """
from plum import Dispatcher
own = Dispatcher()
word = "whole"

@own
def describe(x: int):
    return word

def describe_all(values):
    return [describe(each) for each in values]
"""


def test_functions_of_modules_are_the_modules_own(cluster, tmp_path, monkeypatch):
    """Methods that the program adds to the function of a module are seen there by that module."""
    (tmp_path / "module_of_plum.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("module_of_plum")
    assert fc.remotecall_fetch(2, module.describe, 1) == "whole"

    @module.own
    def describe(x: Square):
        return "square"

    fc.everywhere("import module_of_plum; module_of_plum.word = 'theirs'", pids=2)
    fc.everywhere(describe)
    assert fc.remotecall_fetch(2, module.describe_all, [1, Square(1)]) == ["theirs", "square"]
    assert fc.remotecall_fetch(2, lambda: describe is module.describe)
    del sys.modules["__main__"].describe


class Series:
    """Its methods are generic functions, too."""

    def __init__(self, values):
        self.values = np.array(values)

    @dispatch
    def __mul__(self, other: int):
        return Series(self.values * other)

    @dispatch
    def __mul__(self, other: "Series"):
        return self.values @ other.values


class Positive(Series):
    @dispatch
    def __mul__(self, other: str):
        return other


def test_methods_of_classes(cluster):
    """They dispatch there, and look further in classes above."""
    assert fc.remotecall_fetch(2, lambda x: (x * 2) * x, Series([1, 2])) == 10
    assert fc.remotecall_fetch(2, lambda x: (x * "a", x * x), Positive([1, 2])) == ("a", 5)


def test_functions_of_one_name_are_not_mixed():
    """Two masters of one process may each have a function of a name; the second one has its own here."""
    description = generic._Description(None, True, "__main__", "name_of_two_masters", None)
    first, second = generic._find("one", description), generic._find("two", description)
    assert first is dispatch.functions["name_of_two_masters"]
    assert first is not second
    assert generic._find("one", description) is first
    assert generic._find("two", description) is second
