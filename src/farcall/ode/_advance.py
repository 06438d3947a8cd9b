"""Which method, if nobody says: an explicit one as long as that pays, and LSODA where the equations are stiff.

One problem is integrated by Python, which calls CyRK's C functions; many problems are, by a loop that Numba compiles
and that calls the same C functions. The functions here are both: Python, and what Numba compiles.
"""

from typing import Any, NamedTuple

import numpy as np
from CyRK import CyrkErrorCodes, ODEMethod
from numba import carray  # type: ignore[attr-defined]
from numba.extending import register_jitable

from ._compiled import COUNT, STATES

AUTOMATIC, LSODA, VERN7 = 0, int(ODEMethod.LSODA), int(ODEMethod.VERN7)
FINISHED, OUT_OF_STEPS = int(CyrkErrorCodes.SUCCESSFUL_INTEGRATION), int(CyrkErrorCodes.MAX_STEPS_USER_EXCEEDED)

_FIRST = 500  # steps that the explicit method has before LSODA is tried
_TRIAL = 200  # steps of LSODA, enough to get up to speed
_GROWTH = 20  # times as many steps has the explicit method, if LSODA was not better
_ADVANTAGE = 2.0  # times as far for as many evaluations must LSODA come


class Native(NamedTuple):
    """CyRK's C functions. They take and give the address of a result as an integer."""

    solve: Any
    status: Any
    size: Any
    t: Any
    y: Any
    t_now: Any
    y_now: Any
    free: Any


class Task(NamedTuple):
    """What several integrations have in common. The first three are of a ``Watch`` and a ``Right``."""

    right: int
    pointers: Any
    watch: Any
    rtol: Any
    atol: Any
    saveat: Any
    dense: int
    megabytes: int
    """What times and states may need, if they are kept of every step."""


@register_jitable
def integrate(native: Any, task: Any, t0: float, y0: Any, t1: float, method: int) -> Any:
    """Return the address of CyRK's result, which the caller frees, and the number of the method that it is of.

    With ``AUTOMATIC`` the explicit method has some steps. If it does not arrive, LSODA is tried from where it is: if
    that comes much further for as many evaluations, the problem is LSODA's, from its beginning. Else the explicit
    method has many more steps. Where the explicit one fails LSODA has its chance.
    """
    if method != AUTOMATIC:
        return start(native, task, t0, y0, t1, method, 0), method
    limit = _FIRST
    while True:
        before = task.watch[COUNT]
        found = start(native, task, t0, y0, t1, VERN7, limit)
        status = native.status(found)
        if status == FINISHED:
            return found, VERN7
        if status != OUT_OF_STEPS:
            break
        stiff = is_stiff(native, task, found, t0, t1, task.watch[COUNT] - before)
        native.free(found)
        if stiff:
            return start(native, task, t0, y0, t1, LSODA, 0), LSODA
        limit *= _GROWTH
    other = start(native, task, t0, y0, t1, LSODA, 0)
    if native.status(other) == FINISHED:
        native.free(found)
        return other, LSODA
    native.free(other)
    return found, VERN7


@register_jitable
def is_stiff(native: Any, task: Any, found: Any, t0: float, t1: float, evaluations: float) -> bool:
    """Whether LSODA comes further from where the explicit method ran out of steps, for as many evaluations."""
    t, y = native.t_now(found), carray(native.y_now(found), (int(task.watch[STATES]),)).copy()
    trial = Task(task.right, task.pointers, task.watch, task.rtol, task.atol, np.empty(0), 0, task.megabytes)
    before = task.watch[COUNT]
    other = start(native, trial, t, y, t1, LSODA, _TRIAL)
    reached, status = native.t_now(other), native.status(other)
    native.free(other)
    pace = abs(reached - t) / (task.watch[COUNT] - before)
    return status in (FINISHED, OUT_OF_STEPS) and pace > _ADVANTAGE * abs(t - t0) / evaluations


@register_jitable
def start(native: Any, task: Any, t0: float, y0: Any, t1: float, method: int, limit: int) -> Any:
    """Integrate with one method and at most so many steps, 0 for no limit; return the address of CyRK's result."""
    return native.solve(
        task.right,
        t0,
        t1,
        y0.ctypes.data,
        y0.size,
        np.int32(method),
        0,
        0,
        task.pointers.ctypes.data,
        task.pointers.size * 8,
        limit,
        task.megabytes,
        np.uint8(task.dense),
        task.saveat.ctypes.data,
        task.saveat.size,
        0,
        0,
        0,
        task.rtol.ctypes.data,
        task.rtol.size,
        task.atol.ctypes.data,
        task.atol.size,
        np.inf,
        0.0,
        np.uint8(1),
    )
