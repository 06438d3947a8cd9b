"""Integration by calls of Python's functions: with events, and where Numba or CyRK cannot.

By CyRK's ``pysolve_ivp``, or where there is no CyRK by SciPy's ``solve_ivp``. Both call f(t, y), and find events as
they go. If nobody names a method it is LSODA, which finds out by itself where equations are stiff.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ._methods import EXPLICIT, Found, Request, Vector
from ._problem import ODEProblem

METHOD_OF_PYTHON = "LSODA"  # if nobody names another
_OF_SCIPY = ("RK23", "RK45", "DOP853", "BDF", "Radau", "LSODA")
_PERIOD = 256  # evaluations between two looks at the progress


class _Counted:
    """The right-hand side, which counts its evaluations and tells of the progress.

    The engine's arrays are its own memory: what the user's function gets, and may keep, is a copy.
    """

    def __init__(self, problem: ODEProblem, fill: Callable[..., Any] | None, request: Request) -> None:
        self.count = 0
        self._rates = problem.equations.rates
        self._p = problem.p
        self._fill = fill
        self._progress = request.progress

    def fill(self, dy: Vector, t: float, y: Vector) -> None:
        """Write the derivatives into an array."""
        if self._fill is None:
            dy[:] = self.rates(t, y.copy())
        else:
            self._note(t)
            self._fill(dy, t, y, self._p, y.size, self._p.size)

    def rates(self, t: float, y: Vector) -> Vector:
        """Return the derivatives."""
        self._note(t)
        return self._rates(t, y, self._p)

    def _note(self, t: float) -> None:
        self.count += 1
        if self._progress is not None and self.count % _PERIOD == 0:
            self._progress(t)


class _Event:
    """An event function as both libraries want it."""

    def __init__(self, event: Any, problem: ODEProblem) -> None:
        self._call = problem.equations.read_event(event)
        self._p = problem.p
        self.terminal = getattr(event, "terminal", False)
        self.direction = getattr(event, "direction", 0)

    def __call__(self, t: float, y: Vector) -> float:
        return self._call(t, y.copy(), self._p)


def integrate_in_python(problem: ODEProblem, fill: Callable[..., Any] | None, request: Request) -> Found:
    """Return what is found by calling the ``fill`` of a ``Right``, or Python's function if there is none."""
    try:
        from CyRK import pysolve_ivp
    except ImportError:
        return _integrate_with_scipy(problem, request)
    from ._cyrk import describe

    counted = _Counted(problem, fill, request)
    method = request.method or METHOD_OF_PYTHON
    events = [_Event(each, problem) for each in request.events]
    result = pysolve_ivp(
        counted.fill,
        problem.tspan,
        problem.u0,
        method=method,
        t_eval=request.saveat,
        dense_output=request.saveat is None,
        events=events or None,
        rtol=request.rtol,
        atol=request.atol,
        pass_dy_as_arg=True,
    )
    t, y = result.t, result.y
    if not result.success and method in EXPLICIT and t.size > result.steps_taken:
        t, y = t[:-1], y[:, :-1]  # the step that failed
    return Found(
        t=t,
        y=np.ascontiguousarray(y),
        method=method,
        stiff=None,
        message="" if result.success else describe(int(result.status)),
        steps=result.steps_taken,
        evaluations=counted.count,
        interpolate=(lambda t: result(t).T) if result.success and request.saveat is None else None,
        t_events=result.t_events if events else (),
        y_events=[each.T.reshape(-1, problem.u0.size) for each in result.y_events] if events else (),
        terminated=bool(result.event_terminated),
    )


def _integrate_with_scipy(problem: ODEProblem, request: Request) -> Found:
    from scipy.integrate import solve_ivp

    method = request.method or METHOD_OF_PYTHON
    if method not in _OF_SCIPY:
        raise ValueError(f"{method} is a method of CyRK's: pip install 'farcall[ode]', or take {', '.join(_OF_SCIPY)}")
    counted = _Counted(problem, None, request)
    events = [_Event(each, problem) for each in request.events]
    result: Any = solve_ivp(
        counted.rates,
        problem.tspan,
        problem.u0,
        method=method,
        t_eval=request.saveat,
        dense_output=True,  # which also tells how many steps there were
        events=events or None,
        rtol=request.rtol if request.rtol.size > 1 else float(request.rtol[0]),
        atol=request.atol if request.atol.size > 1 else float(request.atol[0]),
    )
    return Found(
        t=result.t,
        y=result.y,
        method=method,
        stiff=None,
        message="" if result.success else str(result.message).rstrip("."),
        steps=len(result.sol.interpolants),
        evaluations=counted.count,
        interpolate=(lambda t: result.sol(t).T) if result.success and request.saveat is None else None,
        t_events=result.t_events if events else (),
        y_events=[each.reshape(-1, problem.u0.size) for each in result.y_events] if events else (),
        terminated=result.status == 1,
    )
