"""Which method, if nobody says: an explicit one as long as that pays, and LSODA where the equations are stiff.

One problem is integrated by Python, which calls CyRK's C functions; many problems are, by a loop that Numba compiles
and that calls the same C functions. The functions here are both: Python, and what Numba compiles.
"""

from typing import Any

import numpy as np
from CyRK import CyrkErrorCodes, ODEMethod
from numba.extending import register_jitable

from . import _native as native
from ._compiled import BEGUN, COUNT, END, HALF, JUDGE_AT, JUDGED_AGAIN, PACE, RUNNING, SLOW, SLOW_AT, STOPPED

AUTOMATIC, LSODA, VERN7 = 0, int(ODEMethod.LSODA), int(ODEMethod.VERN7)
FINISHED, OUT_OF_STEPS = int(CyrkErrorCodes.SUCCESSFUL_INTEGRATION), int(CyrkErrorCodes.MAX_STEPS_USER_EXCEEDED)

_EARLY = 500.0  # evaluations after which the explicit method is judged first
_TRIAL = 60  # steps that LSODA has then
_ADVANTAGE = 4.0  # times as far as the explicit method for as many evaluations must it come
_BYTES = 24  # of the pointers that the right-hand side gets


@register_jitable
def integrate(plan: Any, watch: Any, t0: float, y0: Any, t1: float, method: int) -> Any:
    """Return the address of CyRK's result, which the caller frees, and the number of the method that it is of.

    With ``AUTOMATIC`` the explicit method begins. The right-hand side stops it where it is so slow that there is much
    more to do, and LSODA is tried from there. If that comes much further the problem is LSODA's, from its beginning.
    Else the explicit method begins anew, to be judged later again: problems may become stiff. Where it fails LSODA has
    its chance too.
    """
    watch[JUDGE_AT] = np.inf
    if method != AUTOMATIC:
        return start(plan, t0, y0, t1, method, 0), method
    judged = _EARLY
    while True:
        watch[BEGUN], watch[END], watch[HALF], watch[JUDGE_AT] = watch[COUNT], t1, 0.0, watch[COUNT] + judged / 2.0
        found = start(plan, t0, y0, t1, VERN7, 0)
        watch[JUDGE_AT] = np.inf
        if watch[STOPPED] != SLOW:
            break
        watch[STOPPED] = RUNNING
        judged = JUDGED_AGAIN * watch[SLOW_AT]
        steps = native.steps(plan, found)
        native.free(plan, found)
        if is_stiff(plan, watch, t0, y0, t1, steps):
            return start(plan, t0, y0, t1, LSODA, 0), LSODA
    if native.status(plan, found) != FINISHED:
        other = start(plan, t0, y0, t1, LSODA, 0)
        if native.status(plan, other) == FINISHED:
            native.free(plan, found)
            return other, LSODA
        native.free(plan, other)
    return found, VERN7


@register_jitable
def is_stiff(plan: Any, watch: Any, t0: float, y0: Any, t1: float, steps: int) -> bool:
    """Whether LSODA comes much further from where the explicit method was stopped, in a step that did not count."""
    bare = plan.copy()
    bare[native.SAVEATS] = bare[native.DENSE] = 0
    pace = watch[PACE]
    found = start(bare, t0, y0, t1, VERN7, max(1, steps - 1))
    t, y, memory = native.time_now(plan, found), np.empty(y0.size), native.state_now(plan, found)
    for state in range(y0.size):
        y[state] = memory[state]
    native.free(plan, found)
    before = watch[COUNT]
    found = start(bare, t, y, t1, LSODA, _TRIAL)
    status, reached = native.status(plan, found), native.time_now(plan, found)
    native.free(plan, found)
    better = abs(reached - t) > _ADVANTAGE * pace * (watch[COUNT] - before)
    return better and status in (FINISHED, OUT_OF_STEPS)


@register_jitable
def start(plan: Any, t0: float, y0: Any, t1: float, method: int, limit: int) -> Any:
    """Integrate with one method and at most so many steps, 0 for no limit; return the address of CyRK's result."""
    return native.solve(
        plan,
        plan[native.RIGHT],
        t0,
        t1,
        y0.ctypes.data,
        y0.size,
        method,
        0,
        0,
        plan[native.ARGUMENTS],
        _BYTES,
        limit,
        plan[native.MEGABYTES],
        plan[native.DENSE],
        plan[native.SAVEAT],
        plan[native.SAVEATS],
        0,
        0,
        0,
        plan[native.RTOL],
        plan[native.RTOLS],
        plan[native.ATOL],
        plan[native.ATOLS],
        np.inf,
        0.0,
        1,
    )
