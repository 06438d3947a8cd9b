"""The right-hand side of differential equations as a C function, compiled by Numba.

The engine calls it as ``void right(double *dy, double t, double *y, double **arguments)``. The arguments are three
pointers: to the *watch*, an array of numbers that the engine's caller shares with it, to the parameters, and to a
function ``void look(double t)``, which is called when as many evaluations were made as the watch says.

It is made of functions that Numba compiles, and not by ``numba.cfunc``, so that its machine code travels.
"""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core.errors import NumbaError as NumbaError
from numba.extending import intrinsic, is_jitted

# The places of the watch: evaluations, and when to look;
COUNT, LOOK_AT = 0, 1
# whether it was stopped, and by an exception at what time; from STATE on there is the state then;
STOPPED, TIME, STATES, PARAMETERS = 2, 3, 4, 5
RUNNING, INTERRUPTED, RAISED, SLOW = 0.0, 1.0, 2.0, 3.0
# when to judge whether it is slow, evaluations when the method began, and until when it goes;
JUDGE_AT, BEGUN, END = 6, 7, 8
# half of the evaluations since then, what time it was at the half, time for an evaluation since, evaluations when slow.
HALF, TIME_AT_HALF, PACE, SLOW_AT = 9, 10, 11, 12
STATE = 13

JUDGED_AGAIN = 5.0  # times as many evaluations after which it is judged the next time
_MANY = 50_000.0  # evaluations that are still to be made: it is slow

_DOUBLES = types.CPointer(types.float64)
_SIGNATURE = types.void(_DOUBLES, types.float64, _DOUBLES, types.CPointer(_DOUBLES))


class Right:
    """A right-hand side. Compiled when its address is asked for first, once in a cluster.

    ``fill(dy, t, y, p, states, parameters)`` writes the derivatives into an array; ``fill_memory`` gets pointers.
    """

    def __init__(self, fill: Any, fill_memory: Any) -> None:
        self.fill = fill
        self._right = _make_right(fill_memory)
        self._address = 0  # in this process

    def __repr__(self) -> str:
        return f"<Right of {self.fill}>"

    def address(self) -> int:
        """Return the address of the C function in this process. NumbaError if it cannot be compiled."""
        if not self._address:
            compiled = self._right.get_compile_result(_SIGNATURE)
            self._address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
        return self._address

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_address": 0}


def right_of_states(function: FunctionType, arguments: Sequence[str], states: int, parameters: int) -> Right:
    """Return the right-hand side that a definition's function computes from states, time and parameters."""
    given = iter(f"y[{index}]" for index in range(states))
    values = ["t" if each == "t" else next(given) for each in arguments]
    values += [f"p[{index}]" for index in range(parameters)]
    targets = "".join(f"dy[{index}], " for index in range(states))
    inner = f"def fill(dy, t, y, p, states, parameters):\n  {targets}= rates({', '.join(values)})"
    namespace: dict[str, Any] = {"__name__": __name__}  # else a pickle looks for the function in all modules
    exec(f"def capture(rates):\n {inner}\n return fill", namespace)
    fill = _compile(namespace["capture"](_compile(function)))
    return Right(fill, fill)  # it indexes, and does not mind which of the two it gets


def right_of_arrays(function: Callable[..., Any], takes_parameters: bool) -> Right:
    """Return the right-hand side that a function f(t, y, p), or f(t, y), returns as an array, a tuple or a list."""
    rates = function if is_jitted(function) else _compile(function)
    if takes_parameters:

        def fill(dy: Any, t: Any, y: Any, p: Any, states: Any, parameters: Any) -> None:
            found = rates(t, y, p)
            if len(found) != states:
                raise ValueError
            for index in range(states):
                dy[index] = found[index]
    else:

        def fill(dy: Any, t: Any, y: Any, p: Any, states: Any, parameters: Any) -> None:
            found = rates(t, y)
            if len(found) != states:
                raise ValueError
            for index in range(states):
                dy[index] = found[index]

    compiled = _compile(fill)

    def fill_memory(dy: Any, t: Any, y: Any, p: Any, states: Any, parameters: Any) -> None:
        compiled(dy, t, carray(y, (states,)), carray(p, (parameters,)), states, parameters)

    return Right(compiled, _compile(fill_memory))


def _compile(function: Any) -> Any:
    return njit(error_model="numpy")(function)


def _generate_call(typing: Any, function: Any, t: Any) -> Any:
    """Call a C function ``void f(double)`` by its address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.DoubleType()])
        builder.call(builder.bitcast(arguments[0], kind.as_pointer()), [arguments[1]])
        return context.get_dummy_value()

    return types.void(_DOUBLES, types.float64), generate


_call: Any = intrinsic(_generate_call)


def _make_right(fill: Any) -> Any:
    def right(dy: Any, t: Any, y: Any, arguments: Any) -> None:
        watch = arguments[0]
        watch[COUNT] += 1.0
        if watch[COUNT] >= watch[LOOK_AT]:
            _call(arguments[2], t)
        if watch[COUNT] >= watch[JUDGE_AT]:
            made = watch[COUNT] - watch[BEGUN]
            if made != 2.0 * watch[HALF]:
                watch[HALF], watch[TIME_AT_HALF], watch[JUDGE_AT] = made, t, watch[COUNT] + made
            else:
                watch[PACE] = abs(t - watch[TIME_AT_HALF]) / watch[HALF]
                watch[JUDGE_AT] = watch[BEGUN] + made * JUDGED_AGAIN / 2.0
                if abs(watch[END] - t) > _MANY * watch[PACE]:
                    watch[STOPPED], watch[SLOW_AT] = SLOW, made
        states, parameters = np.int64(watch[STATES]), np.int64(watch[PARAMETERS])
        if watch[STOPPED] == RUNNING:
            try:
                fill(dy, t, y, arguments[1], states, parameters)
            except Exception:
                watch[STOPPED], watch[TIME] = RAISED, t
                for index in range(states):
                    watch[STATE + index] = y[index]
        if watch[STOPPED] != RUNNING:  # every method gives up when it gets no numbers
            for index in range(states):
                dy[index] = np.nan

    options: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True}
    return njit(**options)(right)
