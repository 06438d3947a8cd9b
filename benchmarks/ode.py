"""How fast differential equations are solved: ``python benchmarks/ode.py`` prints each quantity, its goal, and whether
that is met.

Each is a ratio to a baseline measured in the same run, in turns with it. Of one problem, solved again and again, the
least time counts; of all else the median over the rounds. SciPy gets the same equations as a Python function; a row
more tells what compiling that is worth to SciPy. The bare processes run CyRK in a compiled loop of their own, with the
method that ``solve`` chooses, and keep what they compute; ``solve`` has it in the master.
"""

import argparse
import math
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from baselines import interleave, mean_time
from numba import njit
from report import Row, duration, run
from scipy.integrate import solve_ivp

import farcall as fc

RTOL, ATOL = 1e-6, 1e-9
TRAJECTORIES = 10_000
WORKERS = 2

FIRST = """
import time
import numba, numpy
started = time.perf_counter()
import farcall as fc
@fc.ode.ode_def
def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
    dx = σ * (y - x)
    dy = x * (ρ - z) - y
    dz = x * y - β * z
solution = fc.ode.solve(fc.ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 100.0)))
print(time.perf_counter() - started)
"""


@fc.ode.ode_def
def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
    dx = σ * (y - x)
    dy = x * (ρ - z) - y
    dz = x * y - β * z


def lorenz_of_scipy(t, u):
    x, y, z = u
    return [10.0 * (y - x), x * (28.0 - z) - y, x * y - 8 / 3 * z]


@fc.ode.ode_def
def van_der_pol(x, v, *, μ=1000.0):
    dx = v
    dv = μ * (1 - x * x) * v - x


def van_der_pol_of_scipy(t, u):
    x, v = u
    return [v, 1000.0 * (1 - x * x) * v - x]


# One problem


def least_times(*actions: tuple[Callable[[], Any], int]) -> list[float]:
    """Return the least seconds that each action takes, of several times in each of the rounds, in turns."""
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(ROUNDS):
        for known, (action, count) in zip(times, actions, strict=True):
            known += [mean_time(action, 1) for _ in range(count)]
    return [min(each) for each in times]


def one_problem(name: str, problem: Any, function: Any, check: tuple[float, Any], goal: float) -> Iterator[Row]:
    """Yield the rows of a problem: the time of SciPy over ours, and the errors at a time with a known solution."""
    times, compiled = np.linspace(*problem.tspan, 1001), njit(function)
    options = {"rtol": RTOL, "atol": ATOL}

    def scipy(f: Any) -> Any:
        return solve_ivp(f, problem.tspan, problem.u0, "LSODA", t_eval=times, **options)

    def ours() -> Any:
        return fc.ode.solve(problem, saveat=times, **options)

    place, expected = int(np.searchsorted(times, check[0])), np.asarray(check[1])
    theirs, mine = (float(np.abs(y[:, place] / expected - 1).max()) for y in (scipy(compiled).y, ours().y))
    plain, quick, fast = least_times((partial(scipy, function), 1), (partial(scipy, compiled), 1), (ours, 20))
    ratio = f"{plain / fast:5.1f} ({duration(plain)} over {duration(fast)})"
    yield Row(f"{name}: SciPy's LSODA over {ours().method}", ratio, f"≥ {goal}", plain / fast >= goal)
    yield Row("  if SciPy's function is compiled too", f"{quick / fast:5.1f} ({duration(quick)} over {duration(fast)})")
    errors = f"{mine / theirs:5.2f} ({mine:.1e} over {theirs:.1e})"
    yield Row(f"  relative error at t = {check[0]:g}, over SciPy's", errors, "≤ 1", mine <= theirs)


def lorenz_rows() -> Iterator[Row]:
    """Lorenz' equations, whose errors grow a thousandfold until t = 10, where they are compared."""
    exact = solve_ivp(lorenz_of_scipy, (0, 10), [1.0, 0, 0], "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    problem = fc.ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 100.0))
    return one_problem("Lorenz to t = 100, 1001 points", problem, lorenz_of_scipy, (10.0, exact), 40)


def van_der_pol_rows() -> Iterator[Row]:
    """Van der Pol's equations, stiff; the solution at t = 2000 is of the Test Set for Initial Value Problem Solvers."""
    problem = fc.ode.ODEProblem(van_der_pol, [2.0, 0.0], (0.0, 2000.0))
    exact = [1.706167732170483, -0.8928097010247975e-3]
    return one_problem("van der Pol, μ = 1000, to t = 2000", problem, van_der_pol_of_scipy, (2000.0, exact), 25)


def first_solution() -> Row:
    """From the import of farcall, with that of Numba done, to a solution."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(FIRST)
        program.flush()
        command = [sys.executable, program.name]
        seconds = median(float(subprocess.check_output(command, text=True)) for _ in range(min(ROUNDS, 3)))
    return Row("from ode_def to the first solution, in a fresh process", f"{seconds:5.2f} s", "≤ 1.5 s", seconds <= 1.5)


# Many problems


def _bare(connection: Any, values: Any) -> None:
    """Solve so many problems whenever it is told to, with CyRK and Numba alone."""
    from CyRK import cyjit, nbsolve2_ivp

    @cyjit
    def right(dy, t, y, p):
        dy[0] = p[0] * (y[1] - y[0])
        dy[1] = y[0] * (p[1] - y[2]) - y[1]
        dy[2] = y[0] * y[1] - p[2] * y[2]

    @njit
    def loop(address, values, out):
        u0, p, end = np.array([1.0, 0.0, 0.0]), np.array([10.0, 28.0, 8 / 3]), np.array([10.0])
        for index in range(values.size):
            p[1] = values[index]
            found = nbsolve2_ivp(address, (0.0, 10.0), u0, method="Vern7", t_eval=end, args=p, rtol=RTOL, atol=ATOL)
            for state in range(3):
                out[index, state] = found.y[state, 0]
            found.free()

    out = np.empty((values.size, 3))
    loop(right.address, values[:1], out)
    connection.send(None)
    while connection.recv():
        loop(right.address, values, out)
        connection.send(out.sum())


class Bare:
    """Processes without farcall, each with its part of the problems."""

    def __init__(self, values: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends, self._processes = [], []
        for part in values.reshape(WORKERS, -1):
            ours, theirs = context.Pipe()
            self._ends.append(ours)
            self._processes.append(context.Process(target=_bare, args=(theirs, part), daemon=True))
            self._processes[-1].start()
        for each in self._ends:
            each.recv()

    def __call__(self) -> float:
        """Solve them all, and return the sum of the states at the end."""
        for each in self._ends:
            each.send(True)
        return math.fsum(each.recv() for each in self._ends)

    def close(self) -> None:
        for each in self._ends:
            each.send(False)
        for process in self._processes:
            process.join()


def many_problems() -> Row:
    """Trajectories per second on two workers, over those in two bare processes."""
    problem = fc.ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 10.0))
    ensemble = fc.ode.EnsembleProblem(problem, parameters={"ρ": np.linspace(0, 100, TRAJECTORIES)})
    bare = Bare(np.linspace(0, 100, TRAJECTORIES))
    with fc.addprocs(WORKERS):
        found = [float(fc.ode.solve(ensemble).y.sum()), bare()]
        assert math.isclose(*found, rel_tol=1e-9), found
        timed = [partial(mean_time, each, 1) for each in (partial(fc.ode.solve, ensemble), bare)]
        ours, theirs = interleave(ROUNDS, *timed)
    bare.close()
    measured = f"{theirs / ours:5.3f} ({duration(ours)} over {duration(theirs)})"
    what = f"{TRAJECTORIES:,} times Lorenz to t = 10 on {WORKERS} workers, over bare processes"
    return Row(what, measured, "≥ 0.95", theirs / ours >= 0.95)


def measure() -> Iterator[Row]:
    """Yield each row when it has been measured."""
    yield from lorenz_rows()
    yield from van_der_pol_rows()
    yield first_solution()
    yield many_problems()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="over which medians are taken (7)")
    ROUNDS = parser.parse_args().rounds
    run(measure())
