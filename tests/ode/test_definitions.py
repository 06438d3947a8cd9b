"""What ode_def makes of a function, and what it says of one that is wrong."""

import math
import pickle
import textwrap

import cloudpickle
import numpy as np
import pytest

import farcall as fc

ode = fc.ode
GRAVITY = 9.81


def define(text, tmp_path):
    """Define what a text says, from a file."""
    path = tmp_path / "equations.py"
    path.write_text("import farcall as fc\n@fc.ode.ode_def\n" + textwrap.dedent(text))
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace


def test_a_definition_is_the_function_that_returns_its_derivatives():
    """It has states and parameters by name, is called as it was written, and tells what it is."""

    @ode.ode_def
    def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
        """Convection."""
        dx = σ * (y - x)
        dy = x * (ρ - z) - y
        dz = x * y - β * z

    assert (lorenz.states, lorenz.parameters) == (("x", "y", "z"), ("σ", "ρ", "β"))
    assert lorenz.defaults == {"σ": 10.0, "ρ": 28.0, "β": 8 / 3}
    assert lorenz(1.0, 2.0, 3.0, ρ=5.0, β=2.0) == (10.0, 0.0, -4.0)
    assert lorenz.rates(0.0, np.array([1.0, 2.0, 3.0])).tolist() == [10.0, 23.0, 2.0 - 8.0]
    assert lorenz.__doc__ == "Convection."
    with pytest.raises(TypeError, match="missing a required argument: 'z'"):
        lorenz(1.0, 2.0)


def test_other_names_are_what_they_are_in_any_function():
    """Globals, captured variables, modules, temporaries, loops and the time can be used."""
    half = 0.5

    @ode.ode_def
    def driven(t, x, dx, *, k=2.0):
        force = 0.0
        for n in range(3):
            force += half * n * math.sin(t)
        ddx = force - k * x - GRAVITY

    assert driven.states == ("x", "dx")  # dx is a state, and so the derivative of x
    assert driven(1.0, 2.0, 3.0) == (3.0, pytest.approx(1.5 * math.sin(1.0) - 4.0 - GRAVITY))
    found = ode.solve(ode.ODEProblem(driven, [0.0, 0.0], (0.0, 3.0), {"k": 1.0}), rtol=1e-9, atol=1e-12)
    exact = 0.75 * (np.sin(3.0) - 3.0 * np.cos(3.0)) - GRAVITY * (1 - np.cos(3.0))
    assert found["x"][-1] == pytest.approx(exact, rel=1e-7)


def test_names_are_as_python_normalises_them():
    """ϵ (U+03F5) is ε in Python's names, so it is where a name is a text: for parameters and for states."""

    @ode.ode_def
    def growth(ϵ, *, µ=1.0):
        dϵ = µ * ϵ

    assert (growth.states, growth.parameters) == (("ε",), ("μ",))
    problem = ode.ODEProblem(growth, {"ϵ": 2.0}, (0, 1), {"µ": 3.0})
    assert (problem.u0.tolist(), problem.p.tolist()) == ([2.0], [3.0])
    assert ode.solve(problem)["ϵ"][0] == 2.0


MISTAKES = [
    ("def f(x, y):\n    dx = y", 3, "the derivative of y is missing: write dy = …"),
    ("def f(x, w):\n    dx = x", 3, "write dw = …, or delete w, which is used nowhere"),
    ("def f(x, *, a=1):\n    dx = (\n        b * x)", 5, "b is no state, no parameter, and no name"),
    ("def f(x):\n    dx = t", 4, "t is no state, no parameter"),
    ("def f(x, a=1):\n    dx = a * x", 3, r"write def …\(…, \*, a=…\)"),
    ("def f(x):\n    dx = x\n    dy = x", 5, "dy is used nowhere, and is no derivative of a state: these are x"),
    ("def f(x):\n    dx = x\n    return dx", 5, "nothing is returned"),
    ("def f(x, dx):\n    dx = x\n    ddx = x", 4, "dx is a state, so it is given"),
    ("def f(x):\n    x = 2\n    dx = x", 4, "x is given, and not assigned"),
    ("def f(*x):\n    dx = 1", 3, r"in the place of \*x"),
    ("def f(*, k=1):\n    pass", 3, "it has no state"),
    ("def f(x):\n    dx = yield x", 4, "only numbers are computed"),
]


def test_mistakes_name_the_line(tmp_path):
    """A mistake in a definition is a SyntaxError with the file, the line and its text."""
    for text, line, message in MISTAKES:
        with pytest.raises(SyntaxError, match=message) as caught:
            define(text, tmp_path)
        written = (tmp_path / "equations.py").read_text().splitlines()
        assert (caught.value.filename, caught.value.lineno) == (str(tmp_path / "equations.py"), line)
        assert caught.value.text.strip() == written[line - 1].strip()


def test_what_is_no_definition_is_refused():
    """A lambda, what has no source, and a default that is no number are errors that say what to write."""
    with pytest.raises(TypeError, match="written with def"):
        ode.ode_def(lambda x: x)
    with pytest.raises(TypeError, match="written with def"):
        ode.ode_def(len)
    namespace = {}
    exec("def f(x):\n    dx = x", namespace)
    with pytest.raises(OSError, match=r"write a function f\(t, y, p\)"):
        ode.ode_def(namespace["f"])

    def wrong(x, *, k="1 m"):
        dx = k * x

    with pytest.raises(TypeError, match="the default of k must be a real number, and is '1 m'"):
        ode.ode_def(wrong)


@ode.ode_def
def decay(x, y, *, k=1.0, m):
    dx = -k * x
    dy = -m * y


NO_PROBLEMS = [
    (([1, 2], (0, 1)), ValueError, r"m has no default and no value: write p=\{'m': …\}"),
    (([1, 2], (0, 1), {"n": 1}), ValueError, "decay has no parameter n: it has k, m"),
    (([1, 2], (0, 1), [1, 2, 3]), ValueError, r"decay has 2 parameters \(k, m\), not 3"),
    (([1, 2], (0, 1), {"m": "one"}), TypeError, "decay: m must be a real number"),
    (([1, 2, 3], (0, 1), [1, 2]), ValueError, r"u0=\[1, 2, 3\]: write 2 numbers, one for each state of decay"),
    (({"x": 1}, (0, 1), [1, 2]), ValueError, "y has no initial value"),
    (({"x": 1, "z": 2}, (0, 1), [1, 2]), ValueError, "decay has no state z: it has x, y"),
    (([1, math.nan], (0, 1), [1, 2]), ValueError, "must be a finite number"),
    (([1, 2], 3, [1, 2]), ValueError, "write two numbers"),
    (([1, 2], (0, math.inf), [1, 2]), ValueError, "must be finite"),
]


def test_problems_that_are_none():
    """Wrong names, numbers and times are errors that name them."""
    for arguments, error, message in NO_PROBLEMS:
        with pytest.raises(error, match=message):
            ode.ODEProblem(decay, *arguments)


def test_problems_of_plain_functions():
    """f(t, y, p) and f(t, y) are taken as they are, and compiled once; others are refused with a reason."""

    def f(t, y, p):
        return [-p[0] * y[0], t]

    problem = ode.ODEProblem(f, [1.0, 0.0], (0.0, 2.0), 3.0)
    assert problem.states == ("y0", "y1")
    assert ode.ODEProblem(f, [1.0, 0.0], (0.0, 1.0), 3.0).equations is problem.equations
    assert ode.solve(problem).y[:, -1] == pytest.approx([math.exp(-6), 2.0], abs=1e-6)
    assert ode.solve(ode.ODEProblem(lambda t, y: (-y[0],), 1.0, (0, 1))).y[0, -1] == pytest.approx(math.exp(-1))
    with pytest.raises(TypeError, match=r"write it as f\(t, y, p\) or f\(t, y\)"):
        ode.ODEProblem(lambda y: y, [1.0], (0, 1))
    with pytest.raises(TypeError, match="takes no parameters"):
        ode.ODEProblem(lambda t, y: y, [1.0], (0, 1), [2.0])
    with pytest.raises(TypeError, match=r"write p=\[…\]"):
        ode.ODEProblem(f, [1.0, 0.0], (0, 1), {"k": 2.0})
    with pytest.raises(TypeError, match="3 cannot be called"):
        ode.ODEProblem(3, [1.0], (0, 1))


def test_definitions_are_functions_elsewhere_too(cluster):
    """They can be called on workers, and defined there."""
    assert fc.remotecall_fetch(2, decay, 1.0, 2.0, m=3.0) == (-1.0, -6.0)
    fc.everywhere(decay)
    assert fc.everywhere("decay(1.0, 2.0, m=3.0)", pids=3) == (-1.0, -6.0)


def test_definitions_and_problems_can_be_pickled():
    """A definition that comes back from a pickle is the same, and is solved the same."""
    problem = ode.ODEProblem(decay, [1.0, 2.0], (0.0, 1.0), {"m": 2.0})
    again = pickle.loads(cloudpickle.dumps(problem))
    assert (repr(again), again.equations.defaults) == (repr(problem), {"k": 1.0})
    assert (ode.solve(again).y == ode.solve(problem).y).all()
