"""solve: one problem here, or an ensemble of them on the workers."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Unpack, overload

from .._pmap.progress import Progress
from ._ensemble import EnsembleProblem, EnsembleSolution, SpreadOptions, solve_ensemble
from ._integrate import integrate
from ._methods import IntegrationWarning, Request, read_method, read_saveat, read_tolerances
from ._problem import ODEProblem
from ._solution import Solution

_Event = Callable[..., float]


@overload
def solve(
    problem: ODEProblem,
    method: str | None = None,
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    saveat: Any = None,
    events: _Event | Sequence[_Event] = (),
    progress: Any = None,
) -> Solution: ...
@overload
def solve(
    problem: EnsembleProblem,
    method: str | None = None,
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    saveat: Any = None,
    progress: Any = None,
    **spread: Unpack[SpreadOptions],
) -> EnsembleSolution: ...
def solve(
    problem: ODEProblem | EnsembleProblem,
    method: str | None = None,
    *,
    rtol: Any = 1e-6,
    atol: Any = 1e-9,
    saveat: Any = None,
    events: _Event | Sequence[_Event] = (),
    progress: Any = None,
    **spread: Unpack[SpreadOptions],
) -> Solution | EnsembleSolution:
    """Return the solution of a problem, or of all problems of an ensemble.

    Without ``method`` it is Vern7, an explicit method, and LSODA as soon as the problem turns out to be stiff. Others
    are RK23, RK45, Tsit5, DOP853, Vern8, and for stiff problems BDF and Radau. ``rtol`` and ``atol`` bound the error
    of each step, as a part of a state and as such; ``atol`` may be a number for each state. ``saveat`` are the times
    to keep, or the distance between two; without it all steps are kept, and what is between them.

    ``events`` are functions, whose zeros are found: of states, parameters and ``t`` by their names, or g(t, y, p); as
    in SciPy, one with the attribute ``terminal`` ends the solution, and ``direction`` says which sign it goes to.
    ``progress``: as of ``pmap``. Blocks, and can be interrupted. Runs here, in compiled code if Numba can compile the
    equations. Where the solution ends before its time, an IntegrationWarning says why; what the equations raise is
    raised. Julia: ``solve``.

    An ensemble is integrated on the workers, in chunks; without ``saveat`` what it comes to at the end is kept.
    ``seed``: what is drawn depends on it and on the index of the trajectory alone. ``pool``, ``checkpoint``: as of
    ``pmap``.

    >>> import farcall as fc
    >>> @fc.ode.ode_def
    ... def decay(x, *, k=1.0):
    ...     dx = -k * x
    >>> problem = fc.ode.ODEProblem(decay, [1.0], (0.0, 5.0))
    >>> solution = fc.ode.solve(problem)
    >>> solution
    <Solution of decay: 9 steps of Vern7 (not stiff) to t = 5>
    >>> round(float(solution(1.0)[0]), 6)
    0.367879
    >>> sweep = fc.ode.solve(fc.ode.EnsembleProblem(problem, parameters={"k": [0.0, 0.5, 1.0]}))
    >>> sweep["x"][:, -1].round(4)
    array([1.    , 0.0821, 0.0067])
    """
    one = problem.problem if isinstance(problem, EnsembleProblem) else problem
    if not isinstance(one, ODEProblem):
        raise TypeError(f"solve takes an ODEProblem or an EnsembleProblem, not {problem!r:.100}")
    tolerances = read_tolerances(rtol, atol, one.u0.size)
    request = Request(read_method(method), *tolerances, read_saveat(saveat, one.tspan))
    if isinstance(problem, EnsembleProblem):
        if events:
            raise TypeError("events= is for one problem: solve each problem of the ensemble in a pmap")
        return solve_ensemble(problem, request, progress, spread)
    if spread:
        raise TypeError(f"{next(iter(spread))}= is for an EnsembleProblem: one problem is solved here")
    percent = _Percent(progress, one)
    try:
        listed = tuple(events) if isinstance(events, Iterable) else (events,)
        if not all(map(callable, listed)):
            raise TypeError(f"events={events!r}: write a function, or a list of functions")
        found = integrate(one, replace(request, events=listed, progress=percent.reach if percent.is_wanted else None))
        percent.reach(float(found.t[-1]) if found.t.size else one.tspan[0])
    finally:
        percent.close()
    solution = Solution(one, found)
    if not solution.success:
        where = f"t = {solution.t[-1]:.6g}, before {one.tspan[1]:g}"
        warnings.warn(f"{one.equations.name} ends at {where}: {found.message}", IntegrationWarning, stacklevel=2)
    return solution


class _Percent:
    """How far an integration has come, in the hundredths of its time."""

    def __init__(self, wanted: Any, problem: ODEProblem) -> None:
        self._progress = Progress(wanted, 100, problem.equations.name, "%")
        self._start, end = problem.tspan
        self._length = end - self._start
        self._reached = 0
        self.is_wanted = self._progress.is_wanted

    def reach(self, t: float) -> None:
        """Show a time, if it is further than any before."""
        percent = int(100 * (t - self._start) / self._length) if self._length else 0
        if percent > self._reached:
            self._progress.advance(percent - self._reached, 0)
            self._reached = percent

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.close()
