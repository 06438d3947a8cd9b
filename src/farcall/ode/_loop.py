"""Many problems that differ in numbers only, integrated one after another in a loop that Numba compiles."""

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]

from . import _native as native
from ._advance import AUTOMATIC, FINISHED, LSODA, integrate
from ._compiled import RUNNING, STOPPED
from ._cyrk import NUMBERS, describe, make_plan
from ._equations import Equations
from ._members import Members
from ._methods import Request, Vector
from ._watch import PARAMETERS, Watch


@njit(nogil=True, error_model="numpy")
def integrate_members(plan: Any, watch: Any, pointers: Any, tspan: Any, members: Any, method: Any, out: Any) -> Any:
    """Integrate members up to one whose right-hand side is stopped; return which one that is, or their number.

    ``members`` are their states and parameters. ``out`` is three arrays: the states by member, time and state; the time
    until which each member came; and its status and the number of its method.
    """
    states, parameters = members
    y, reached, outcomes = out
    for member in range(states.shape[0]):
        pointers[PARAMETERS] = parameters[member].ctypes.data
        found, used = integrate(plan, watch, tspan[0], states[member], tspan[1], method)
        saved = carray(native.saved(plan, found), (native.size(plan, found), y.shape[2]))
        for time in range(saved.shape[0]):  # as one assignment of arrays Numba would take twice as long to compile it
            for state in range(saved.shape[1]):
                y[member, time, state] = saved[time, state]
        reached[member] = native.time_now(plan, found)
        outcomes[member, 0], outcomes[member, 1] = native.status(plan, found), used
        native.free(plan, found)
        if watch[STOPPED] != RUNNING:
            return member
    return states.shape[0]


def integrate_by_loop(
    loop: Any,
    equations: Equations,
    tspan: tuple[float, float],
    request: Request,
    numbers: Vector,
    states: int,
    first: int,
) -> Members:
    """Return what the members with these initial states and parameters come to."""
    assert equations.right is not None
    assert request.saveat is not None
    count = len(numbers)
    members = numbers[:, :states].copy(), numbers[:, states:].copy()
    watch = Watch(states, np.empty(numbers.shape[1] - states), None)
    plan = np.array(make_plan(equations.right.address(), watch, request, request.saveat))
    y = np.full((count, request.saveat.size, states), np.nan)
    reached, outcomes = np.empty(count), np.empty((count, 2), np.int64)
    method = AUTOMATIC if request.method is None else NUMBERS[request.method]
    done = loop(plan, watch.numbers, watch.pointers, tspan, members, method, (y, reached, outcomes))
    if done < count:
        watch.parameters = members[1][done]
        try:
            watch.check(equations.rates)
        except BaseException as error:
            error.add_note(f"trajectory {first + done} of the ensemble")
            raise
    ended = {
        int(each): (float(reached[each]), describe(int(outcomes[each, 0])))
        for each in np.flatnonzero(outcomes[:, 0] != FINISHED)
    }
    return Members(y.transpose(0, 2, 1), numbers, outcomes[:, 1] == LSODA, ended)
