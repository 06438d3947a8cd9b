"""Solutions agree with published ones, and with ones to twelve digits."""

import math

import numpy as np
import pytest
from equations import lorenz
from scipy.integrate import solve_ivp

import farcall as fc

ode = fc.ode


@ode.ode_def
def robertson(a, b, c):
    da = -0.04 * a + 1e4 * b * c
    dc = 3e7 * b * b
    db = -da - dc


@ode.ode_def
def van_der_pol(x, v, *, μ=1000.0):
    dx = v
    dv = μ * (1 - x * x) * v - x


@ode.ode_def
def brusselator(u, v):
    du = 1 + u * u * v - 4 * u
    dv = 3 * u - u * u * v


@ode.ode_def
def arenstorf(x, y, dx, dy, *, μ=0.012277471):
    near = ((x + μ) ** 2 + y**2) ** 1.5
    far = ((x - 1 + μ) ** 2 + y**2) ** 1.5
    ddx = x + 2 * dy - (1 - μ) * (x + μ) / near - μ * (x - 1 + μ) / far
    ddy = y - 2 * dx - (1 - μ) * y / near - μ * y / far


@ode.ode_def
def hires(a, b, c, d, e, f, g, h):
    da = -1.71 * a + 0.43 * b + 8.32 * c + 0.0007
    db = 1.71 * a - 8.75 * b
    dc = -10.03 * c + 0.43 * d + 0.035 * e
    dd = 8.32 * b + 1.71 * c - 1.12 * d
    de = -1.745 * e + 0.43 * f + 0.43 * g
    df = -280 * f * h + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g
    dg = 280 * f * h - 1.81 * g
    dh = -dg


@ode.ode_def
def pendulum(θ, dθ):
    ddθ = -math.sin(θ)


# Initial states, times and solutions. Of Robertson's, van der Pol's (there with time in units of μ) and HIRES: Mazzia
# and Magherini, "Test Set for Initial Value Problem Solvers" (2008). Of the Brusselator and of Arenstorf's orbit, which
# is closed: Hairer, Nørsett and Wanner, "Solving Ordinary Differential Equations I" (1993).
ORBIT = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]
PROBLEMS = {
    "robertson": (robertson, [1, 0, 0], 1e11, [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]),
    "van der Pol": (van_der_pol, [2, 0], 2000.0, [1.706167732170483, -0.8928097010247975e-3]),
    "hires": (
        hires,
        [1, 0, 0, 0, 0, 0, 0, 0.0057],
        321.8122,
        [
            *[0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2],
            *[0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2],
        ],
    ),
    "brusselator": (brusselator, [1.5, 3], 20.0, [0.49863707126834783, 4.596780349452011]),
    "arenstorf": (arenstorf, ORBIT, 17.0652165601579625588917206249, ORBIT),
}


@pytest.mark.parametrize(
    ("name", "rtol", "atol", "error", "stiff"),
    [
        ("robertson", 1e-7, 1e-20, 1e-5, True),
        ("van der Pol", 1e-7, 1e-10, 1e-5, True),
        ("hires", 1e-8, 1e-12, 1e-6, True),
        ("brusselator", 1e-9, 1e-12, 2e-9, False),
        ("arenstorf", 1e-11, 1e-13, 1e-4, False),
    ],
)
def test_published_solutions(name, rtol, atol, error, stiff):
    """The states at the end are the published ones, by a method that fits, and of stiff problems by Radau too."""
    equations, u0, end, expected = PROBLEMS[name]
    problem = ode.ODEProblem(equations, u0, (0.0, end))
    solution = ode.solve(problem, rtol=rtol, atol=atol)
    assert (solution.success, solution.stiff) == (True, stiff)
    assert solution.method == ("LSODA" if stiff else "Vern7")
    floor = 1e-2 if name == "arenstorf" else 0.0  # two of its components are 0
    for found in [solution, *([ode.solve(problem, "Radau", rtol=rtol, atol=atol)] if stiff else [])]:
        np.testing.assert_allclose(found.y[:, -1], expected, rtol=error, atol=error * floor)


@pytest.fixture(scope="module")
def true_lorenz():
    """The states of the Lorenz problem at t = 10, to twelve digits."""
    found = solve_ivp(lorenz.rates, (0, 10), [1.0, 0, 0], method="DOP853", rtol=1e-12, atol=1e-12)
    return found.y[:, -1]


def lorenz_at_10(**options):
    return ode.solve(ode.ODEProblem(lorenz, [1, 0, 0], (0.0, 10.0)), **options)


@pytest.mark.parametrize(
    ("method", "error"),
    [(None, 1e-4), ("LSODA", 2e-3), ("DOP853", 1e-3), ("Tsit5", 1e-3), ("Vern8", 1e-3), ("BDF", 1e-2), ("Radau", 1e-4)],
)
def test_lorenz_to_t_10(true_lorenz, method, error):
    """At t = 10, where errors have grown a thousandfold, each method is near the solution to twelve digits."""
    solution = lorenz_at_10(method=method)
    np.testing.assert_allclose(solution.y[:, -1], true_lorenz, atol=error)
    if method is None:
        assert (solution.method, solution.stiff) == ("Vern7", False)


@pytest.mark.parametrize("method", ["RK23", "RK45", "Tsit5", "DOP853", "Vern7", "Vern8", "BDF", "Radau", "LSODA"])
def test_the_error_follows_the_tolerance(method):
    """A tolerance that is a thousand times smaller gives a solution of the Brusselator that is 100 times better."""
    equations, u0, end, expected = PROBLEMS["brusselator"]
    problem = ode.ODEProblem(equations, u0, (0.0, end))
    errors = [
        np.abs(ode.solve(problem, method, rtol=rtol, atol=rtol).y[:, -1] - expected).max() for rtol in (1e-4, 1e-7)
    ]
    assert errors[1] < errors[0] / 100
    assert errors[1] < 1e-4


ORDERS = {"RK23": 3, "RK45": 5, "Tsit5": 5, "DOP853": 8, "Vern7": 7, "Radau": 5}


def test_convergence_orders():
    """With more steps the error shrinks at least as fast as the order of the method says, and at its own speed."""
    problem = ode.ODEProblem(pendulum, [1.0, 0.0], (0.0, 10.0))
    exact = ode.solve(problem, "Vern8", rtol=1e-13, atol=1e-15).y[:, -1]
    for method, order in ORDERS.items():
        found = [ode.solve(problem, method, rtol=each, atol=each) for each in 10.0 ** -np.linspace(6, 10, 9)]
        errors = [np.linalg.norm(each.y[:, -1] - exact) for each in found]
        slope = -np.polyfit(np.log([each.steps for each in found]), np.log(errors), 1)[0]
        assert 0.95 * order < slope < 1.45 * order, method


@pytest.mark.parametrize("method", ["RK23", "RK45", "Tsit5", "DOP853", "Vern7", "Vern8", "BDF", "Radau", "LSODA"])
def test_between_the_steps(method):
    """Between its steps a solution is as near to the true one as was asked, or as at them, forwards and backwards."""
    for span in ((0.0, 10.0), (10.0, 0.0)):
        problem = ode.ODEProblem(pendulum, [1.0, 0.5], span)
        exact = ode.solve(problem, "Vern8", rtol=1e-13, atol=1e-15)
        solution = ode.solve(problem, method, rtol=1e-6, atol=1e-6)
        times = np.linspace(0, 10, 1001)
        at_steps = np.abs(solution.y - exact(solution.t)).max()
        assert np.abs(solution(times) - exact(times)).max() < max(1e-6, 4 * at_steps)
        np.testing.assert_allclose(solution(solution.t), solution.y, rtol=1e-12, atol=1e-14)
