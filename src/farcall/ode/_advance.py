"""Which method, if nobody says: an explicit one as long as that pays, and LSODA where the equations are stiff.

One problem is integrated by Python, which calls CyRK's C functions; many problems are, by a loop that Numba compiles
and that calls the same C functions. The functions here are both: Python, and what Numba compiles.
"""

from typing import Any, NamedTuple

import numpy as np
from CyRK import CyrkErrorCodes, ODEMethod
from numba.extending import register_jitable

from ._compiled import BEGUN, COUNT, END, HALF, JUDGE_AT, JUDGED_AGAIN, PACE, RUNNING, SLOW, SLOW_AT, STOPPED

AUTOMATIC, LSODA, VERN7 = 0, int(ODEMethod.LSODA), int(ODEMethod.VERN7)
FINISHED, OUT_OF_STEPS = int(CyrkErrorCodes.SUCCESSFUL_INTEGRATION), int(CyrkErrorCodes.MAX_STEPS_USER_EXCEEDED)

_EARLY = 500.0  # evaluations after which the explicit method is judged first
_TRIAL = 60  # steps that LSODA has then
_ADVANTAGE = 4.0  # times as far as the explicit method for as many evaluations must it come


class Native(NamedTuple):
    """CyRK's C functions. They take and give the address of a result as an integer."""

    solve: Any
    status: Any
    steps: Any
    size: Any
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

    With ``AUTOMATIC`` the explicit method begins. The right-hand side stops it where it is so slow that there is much
    more to do, and LSODA is tried from there. If that comes much further the problem is LSODA's, from its beginning.
    Else the explicit method begins anew, to be judged later again: problems may become stiff. Where it fails LSODA has
    its chance too.
    """
    watch = task.watch
    watch[JUDGE_AT] = np.inf
    if method != AUTOMATIC:
        return start(native, task, t0, y0, t1, method, 0), method
    judged = _EARLY
    while True:
        watch[BEGUN], watch[END], watch[HALF], watch[JUDGE_AT] = watch[COUNT], t1, 0.0, watch[COUNT] + judged / 2.0
        found = start(native, task, t0, y0, t1, VERN7, 0)
        watch[JUDGE_AT] = np.inf
        if watch[STOPPED] != SLOW:
            break
        watch[STOPPED] = RUNNING
        judged = JUDGED_AGAIN * watch[SLOW_AT]
        steps = native.steps(found)
        native.free(found)
        if is_stiff(native, task, t0, y0, t1, steps):
            return start(native, task, t0, y0, t1, LSODA, 0), LSODA
    if native.status(found) != FINISHED:
        other = start(native, task, t0, y0, t1, LSODA, 0)
        if native.status(other) == FINISHED:
            native.free(found)
            return other, LSODA
        native.free(other)
    return found, VERN7


@register_jitable
def is_stiff(native: Any, task: Any, t0: float, y0: Any, t1: float, steps: int) -> bool:
    """Whether LSODA comes much further from where the explicit method was stopped, in a step that did not count."""
    watch = task.watch
    pace = watch[PACE]
    bare = Task(task.right, task.pointers, watch, task.rtol, task.atol, np.empty(0), 0, task.megabytes)
    found = start(native, bare, t0, y0, t1, VERN7, max(1, steps - 1))
    t, y, memory = native.t_now(found), np.empty(y0.size), native.y_now(found)
    for state in range(y0.size):
        y[state] = memory[state]
    native.free(found)
    before = watch[COUNT]
    found = start(native, bare, t, y, t1, LSODA, _TRIAL)
    works = native.status(found) in (FINISHED, OUT_OF_STEPS)
    better = abs(native.t_now(found) - t) > _ADVANTAGE * pace * (watch[COUNT] - before)
    native.free(found)
    return works and better


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
