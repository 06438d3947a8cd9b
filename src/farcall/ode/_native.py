"""CyRK's C functions, for Python and for what Numba compiles.

A *plan* is numbers: what several integrations have in common, and the addresses of the functions in this process, so
that compiled code which calls them runs in any. In Python it is a list, and for compiled code an array. ``CyRK.nb`` has
the addresses, for programs that Numba compiles, and what ctypes makes of them. A result of CyRK's is an address, too.
"""

from collections.abc import Callable
from typing import Any

from CyRK.nb import numba_c_api as addresses
from CyRK.nb import numba_solver as functions
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# The places of the plan: the right-hand side, what it gets, tolerances and times to save at, with their numbers,
# whether to keep what is between the steps, and how many megabytes the steps may need. The functions come after these.
RIGHT, ARGUMENTS, RTOL, RTOLS, ATOL, ATOLS, SAVEAT, SAVEATS, DENSE, MEGABYTES, _FUNCTIONS = range(11)

ADDRESSES: list[int] = []  # of the functions, in the order of the plan


def _function(address: int, by_ctypes: Any, signature: Any) -> Callable[..., Any]:
    """Return a function that is called with a plan, and with what the C function takes."""
    place = _FUNCTIONS + len(ADDRESSES)
    ADDRESSES.append(address)

    def call(plan: Any, *args: Any) -> Any:
        return by_ctypes(*args)

    by_address: Any = intrinsic(_make_call(signature))

    @overload(call)
    def compile_call(plan: Any, *args: Any) -> Any:
        def call_by_address(plan: Any, *args: Any) -> Any:  # with the same annotations, else Numba refuses it
            return by_address(plan[place], args)

        return call_by_address

    return call


def _make_call(signature: Any) -> Any:
    """Return what Numba makes a call of: of a function of the signature, by its address and a tuple of arguments."""

    def generate(typing: Any, address: Any, args: Any) -> Any:
        def lower(context: Any, builder: Any, _: Any, values: Any) -> Any:
            returns = context.get_value_type(signature.return_type)
            kind = ir.FunctionType(returns, [context.get_value_type(each) for each in signature.args])
            passed = [
                context.cast(builder, builder.extract_value(values[1], index), args.types[index], each)
                for index, each in enumerate(signature.args)
            ]
            return builder.call(builder.inttoptr(values[0], kind.as_pointer()), passed)

        return signature.return_type(address, args), lower

    return generate


_SIZE, _FLOAT, _NUMBERS = types.intp, types.float64, types.CPointer(types.float64)

solve = _function(
    addresses.get_solve_func_ptr(),
    functions.c_numba_cysolve_ivp,
    types.intp(
        *[types.intp, _FLOAT, _FLOAT],  # the right-hand side, from when, until when
        *[types.intp, _SIZE, types.int32],  # states, how many, the method
        *[_SIZE, _SIZE],  # steps that are expected, numbers besides the derivatives
        *[types.intp, _SIZE],  # what the right-hand side gets, its bytes
        *[_SIZE, _SIZE, types.uint8],  # most steps, most megabytes, whether to keep what is between steps
        *[types.intp, _SIZE],  # times to save at, how many
        *[types.intp, types.intp, _SIZE],  # what runs before an evaluation, events, how many
        *[types.intp, _SIZE, types.intp, _SIZE],  # relative and absolute tolerances
        *[_FLOAT, _FLOAT, types.uint8],  # longest and first step, whether to keep the last state
    ),
)
status = _function(addresses.get_status_func_ptr(), functions.c_get_status, types.int32(types.intp))
steps = _function(addresses.get_steps_taken_func_ptr(), functions.c_get_steps, _SIZE(types.intp))
size = _function(addresses.get_size_func_ptr(), functions.c_get_size, _SIZE(types.intp))
saved = _function(addresses.get_y_func_ptr(), functions.c_get_y_ptr, _NUMBERS(types.intp))
time_now = _function(addresses.get_t_now_func_ptr(), functions.c_get_t_now, _FLOAT(types.intp))
state_now = _function(addresses.get_y_now_ptr_func_ptr(), functions.c_get_y_now, _NUMBERS(types.intp))
free = _function(addresses.get_free_func_ptr(), functions.c_free, types.void(types.intp))
