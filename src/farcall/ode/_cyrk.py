"""CyRK, the engine: its C functions, and one integration by them.

``CyRK.nb`` has the addresses of these functions, for programs that Numba compiles, and their signatures for ctypes.
"""

import ctypes
from typing import Any

import numpy as np
from CyRK import CyrkErrorCodes, ODEMethod, get_error_message
from CyRK.nb import numba_c_api as addresses
from CyRK.nb import numba_solver as functions
from numba import types
from numba.experimental import function_type  # noqa: F401  # knows WrapperAddressProtocol

from ._advance import AUTOMATIC, FINISHED, LSODA, Native, Task, integrate
from ._methods import DEGREES, EXPLICIT, Found, Request, Vector
from ._problem import ODEProblem
from ._watch import Watch

NUMBERS = {name: int(getattr(ODEMethod, name.upper())) for name in DEGREES}
_NAMES = {number: name for name, number in NUMBERS.items()}
_TOO_MANY = int(CyrkErrorCodes.MAX_STEPS_SYSARCH_EXCEEDED)

UNLIMITED = 1 << 40  # megabytes for states of times that the caller has asked for
_MOST = 256  # megabytes for times and states of all steps; what is between the steps needs ten times as much

_POINTER = types.CPointer(types.float64)
_SOLVE = types.intp(
    *[types.intp, types.float64, types.float64],  # the right-hand side, from when, until when
    *[types.uintp, types.intp, types.int32],  # states, how many, the method
    *[types.intp, types.intp],  # steps that are expected, numbers besides the derivatives
    *[types.uintp, types.intp],  # what the right-hand side gets, its bytes
    *[types.intp, types.intp, types.uint8],  # most steps, most megabytes, whether to keep what is between steps
    *[types.uintp, types.intp],  # times to save at, how many
    *[types.intp, types.intp, types.intp],  # what runs before an evaluation, events, how many
    *[types.uintp, types.intp, types.uintp, types.intp],  # relative and absolute tolerances
    *[types.float64, types.float64, types.uint8],  # longest and first step, whether to keep the last state
)


class _Function(types.WrapperAddressProtocol):
    """A C function, for Python and for what Numba compiles."""

    def __init__(self, address: int, function: Any, signature: Any) -> None:
        self._address = address
        self._function = function
        self._signature = signature

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        return self._signature


NATIVE = Native(
    solve=_Function(addresses.get_solve_func_ptr(), functions.c_numba_cysolve_ivp, _SOLVE),
    status=_Function(addresses.get_status_func_ptr(), functions.c_get_status, types.int32(types.intp)),
    steps=_Function(addresses.get_steps_taken_func_ptr(), functions.c_get_steps, types.intp(types.intp)),
    size=_Function(addresses.get_size_func_ptr(), functions.c_get_size, types.intp(types.intp)),
    y=_Function(addresses.get_y_func_ptr(), functions.c_get_y_ptr, _POINTER(types.intp)),
    t_now=_Function(addresses.get_t_now_func_ptr(), functions.c_get_t_now, types.float64(types.intp)),
    y_now=_Function(addresses.get_y_now_ptr_func_ptr(), functions.c_get_y_now, _POINTER(types.intp)),
    free=_Function(addresses.get_free_func_ptr(), functions.c_free, types.void(types.intp)),
)


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


def integrate_compiled(problem: ODEProblem, right: int, request: Request) -> Found:
    """Return what CyRK finds with a right-hand side by its address."""
    states = problem.u0.size
    watch = Watch(states, problem.p.copy(), request.progress)
    saveat, dense, most = np.empty(0), 1, _MOST
    if request.saveat is not None:
        saveat, dense, most = request.saveat, 0, UNLIMITED
    task = Task(right, watch.pointers, watch.numbers, request.rtol, request.atol, saveat, dense, most)
    method = AUTOMATIC if request.method is None else NUMBERS[request.method]
    address, used = integrate(NATIVE, task, problem.tspan[0], problem.u0, problem.tspan[1], method)
    result = _Result(address, states)
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
        interpolate=result.interpolate if finished and dense else None,
    )


def describe(status: int) -> str:
    """Return what a status means."""
    if status == _TOO_MANY:
        return "it takes more steps than can be kept: say which are wanted, with saveat="
    message: str = get_error_message(status)
    return message.rstrip(".")
