"""When is a compiled function another one than before? When anything that its code was made from is."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit, types

from farcall._wire.compiled.content import content_of


def function(source, **names):
    """Return f of a source, with its own globals."""
    namespace = {"np": np, "math": math, "njit": njit, **names}
    exec(source, namespace)
    return namespace["f"]


SAME = "def f(x): return x + a"
CALLS = "def f(x): return g(x)"


def made(expression):
    return function(f"def make(k):\n    def f(x): return x + k\n    return f\nf = make({expression})")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (function("def f(x): return x + 1"), function("def f(x): return x + 2")),
        (function("def f(x): return x + 1"), function("def f(y): return y + 1")),
        (function("def f(x, y=1): return x + y"), function("def f(x, y=2): return x + y")),
        (function("def f(x, *, y=1): return x + y"), function("def f(x, *, y=2): return x + y")),
        (function("def f(x): return (lambda: 1)()"), function("def f(x): return (lambda: 2)()")),
        (function(SAME, a=1), function(SAME, a=2)),
        (function(SAME, a=1), function(SAME, a=True)),
        (function(SAME, a=1), function(SAME, a=1.0)),
        (function(SAME, a=0.0), function(SAME, a=-0.0)),
        (function(SAME, a=(1, 2)), function(SAME, a=(1, 3))),
        (function(SAME, a=(1, 2)), function(SAME, a=[1, 2])),
        (function(SAME, a=1), function(SAME)),
        (function(SAME, a=np.float32(1)), function(SAME, a=np.float64(1))),
        (function(SAME, a=np.arange(3)), function(SAME, a=np.arange(1, 4))),
        (function(SAME, a=np.arange(3)), function(SAME, a=np.arange(3.0))),
        (function(SAME, a=np.zeros((2, 3))), function(SAME, a=np.zeros((3, 2)))),
        (function(SAME, a=np.zeros((2, 2))), function(SAME, a=np.zeros((2, 2)).T[:, ::1].copy("F"))),
        (function(SAME, a=math), function(SAME, a=np)),
        (function(SAME, a=math.sin), function(SAME, a=math.cos)),
        (function(SAME, a=types.int64), function(SAME, a=types.int32)),
        (function(SAME, a={"k": 1}), function(SAME, a={"k": 2})),
        (function(CALLS, g=made("1")), function(CALLS, g=made("2"))),
        (function(CALLS, g=njit(made("1"))), function(CALLS, g=njit(made("2")))),
        (function(CALLS, g=njit(made("1"))), function(CALLS, g=made("1"))),
        (function(CALLS, g=njit(made("1"))), function(CALLS, g=njit(fastmath=True)(made("1")))),
        (made("1"), made("2")),
    ],
)
def test_a_difference_shows(left, right):
    """Code, defaults, globals and captured values by type and content, and what is called likewise."""
    assert content_of(left) != content_of(right)


@pytest.mark.parametrize(
    "make",
    [
        lambda: function("def f(x): return x + 1"),
        lambda: function(SAME, a=np.arange(3)),
        lambda: function(SAME, a=[1, (2.5, "x")]),
        lambda: function(SAME, a={"k": 1}),
        lambda: function(CALLS, g=njit(made("1"))),
        lambda: function("@njit\ndef g(x): return f(x)\ndef f(x): return g(x) if x else f(x - 1)"),
    ],
)
def test_equal_functions_have_equal_contents(make):
    """Whoever makes them, and when; also where functions call each other in a circle."""
    assert content_of(make()) == content_of(make())


def test_options_belong_to_the_content():
    """The same function with other options is other code."""
    f = made("1")
    assert content_of(f, {"fastmath": True}) != content_of(f, {})


def test_what_is_no_data_is_equal_to_itself_alone():
    """Types, ufuncs and C functions are told apart as objects, however they change as they are used."""
    cosh = types.ExternalFunction("cosh", types.float64(types.float64))
    sinh = types.ExternalFunction("sinh", types.float64(types.float64))
    before = content_of(function(SAME, a=cosh))
    njit(function("def f(x): return a(x)", a=cosh))(1.0)
    assert content_of(function(SAME, a=cosh)) == before != content_of(function(SAME, a=sinh))
    assert content_of(function(SAME, a=np.add)) == content_of(function(SAME, a=np.add))


def test_what_cannot_be_pickled_is_equal_to_itself_alone():
    """There is always an answer."""
    one, other = SimpleNamespace(lock=iter([])), SimpleNamespace(lock=(each for each in []))
    assert content_of(function(SAME, a=other)) == content_of(function(SAME, a=other))
    assert content_of(function(SAME, a=one)) != content_of(function(SAME, a=other))


def test_a_profiler_changes_nothing():
    """Although Numba marks the code of what it calls while somebody profiles."""
    f = function("def f(x): return x + 1")
    compiled, before, flags = njit(f), content_of(f), f.__code__.co_flags
    compiled(1.0)
    sys.setprofile(lambda *event: None)
    try:
        compiled(1.0)
    finally:
        sys.setprofile(None)
    assert f.__code__.co_flags != flags  # else this test is about nothing
    assert content_of(f) == before
