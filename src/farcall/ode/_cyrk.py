"""One integration by CyRK, of equations that are compiled."""

import ctypes
from typing import Any

import numpy as np
from CyRK import CyrkErrorCodes, ODEMethod, get_error_message
from CyRK.nb import numba_solver as functions

from ._advance import AUTOMATIC, FINISHED, LSODA, integrate
from ._methods import DEGREES, EXPLICIT, Found, Request, Vector
from ._native import ADDRESSES
from ._problem import ODEProblem
from ._watch import Watch

NUMBERS = {name: int(getattr(ODEMethod, name.upper())) for name in DEGREES}
_NAMES = {number: name for name, number in NUMBERS.items()}
_TOO_MANY = int(CyrkErrorCodes.MAX_STEPS_SYSARCH_EXCEEDED)
_TOO_SMALL = int(CyrkErrorCodes.STEP_SIZE_ERROR_SPACING)

_ALL_STEPS = np.empty(0)  # times that are asked for
_UNLIMITED = 1 << 40  # megabytes for those
_MOST = 256  # megabytes for times and states of all steps; what is between the steps needs ten times as much


class _Result:
    """CyRK's result, freed when nobody needs it any more."""

    def __init__(self, address: int, states: int) -> None:
        self._address = address
        self._states = states

    def __repr__(self) -> str:
        return f"<_Result at {self._address:#x}>"

    def __del__(self, free: Any = functions.c_free) -> None:  # which is gone when the interpreter ends
        free(self._address)

    def status(self) -> int:
        status: int = functions.c_get_status(self._address)
        return status

    def steps(self) -> int:
        steps: int = functions.c_get_steps(self._address)
        return steps

    def saved(self) -> tuple[Vector, Vector]:
        """Return the times that were saved and the states at each."""
        size = functions.c_get_size(self._address)
        t, y = np.empty(size), np.empty((size, self._states))
        ctypes.memmove(t.ctypes.data, functions.c_get_t_ptr(self._address), t.nbytes)
        ctypes.memmove(y.ctypes.data, functions.c_get_y_ptr(self._address), y.nbytes)
        return t, y

    def interpolate(self, t: Vector) -> Vector:
        """Return the states at some times. Only of an integration that has finished."""
        y = np.empty((t.size, self._states))
        status = functions.c_call_vec(self._address, t.ctypes.data, t.size, y.ctypes.data)
        if status != 0:
            raise RuntimeError(get_error_message(status))
        return y


def make_plan(right: int, watch: Watch, request: Request, saveat: Vector) -> list[int]:
    """Return the plan of integrations. It has addresses of what the others hold."""
    plan = [right, watch.pointers.ctypes.data]
    for array in (request.rtol, request.atol, saveat):
        plan += [array.ctypes.data, array.size]
    return [*plan, int(not saveat.size), _MOST if not saveat.size else _UNLIMITED, *ADDRESSES]


def integrate_compiled(problem: ODEProblem, right: int, request: Request) -> Found:
    """Return what CyRK finds with a right-hand side by its address."""
    watch = Watch(problem.u0.size, problem.p.copy(), request.progress)
    plan = make_plan(right, watch, request, request.saveat if request.saveat is not None else _ALL_STEPS)
    method = AUTOMATIC if request.method is None else NUMBERS[request.method]
    address, used = integrate(plan, watch.numbers, problem.tspan[0], problem.u0, problem.tspan[1], method)
    result = _Result(address, problem.u0.size)
    watch.check(problem.equations.rates)
    finished = result.status() == FINISHED
    t, y = result.saved()
    if not finished and _NAMES[used] in EXPLICIT and t.size > result.steps():
        t, y = t[:-1], y[:-1]  # the step that failed
    return Found(
        t=t,
        y=np.ascontiguousarray(y.T),
        method=_NAMES[used],
        stiff=used == LSODA if request.method is None else None,
        message="" if finished else describe(result.status()),
        steps=result.steps(),
        evaluations=watch.evaluations,
        interpolate=result.interpolate if finished and request.saveat is None else None,
    )


def describe(status: int) -> str:
    """Return what a status means."""
    if status == _TOO_MANY:
        return "it takes more steps than can be kept: say which times are wanted, with saveat="
    if status == _TOO_SMALL:
        return "steps became too small to go on: it grows without bound, or its equations give no numbers there"
    message: str = get_error_message(status)
    return message.rstrip(".")
