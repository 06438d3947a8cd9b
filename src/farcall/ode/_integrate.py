"""One integration, by whatever can do it: compiled where that is possible."""

import functools
import warnings
from typing import Any

from ._equations import Equations
from ._methods import Found, IntegrationWarning, Request
from ._problem import ODEProblem
from ._python import integrate_in_python


def integrate(problem: ODEProblem, request: Request) -> Found:
    """Return what is found. Errors of the right-hand side are raised as they are."""
    right = address_of(problem.equations)
    if right is not None and not request.events:
        found: Found = _engine().integrate_compiled(problem, right, request)
        return found
    known = problem.equations.right
    return integrate_in_python(problem, known.fill if right is not None and known is not None else None, request)


def address_of(equations: Equations) -> int | None:
    """Return the address of the compiled right-hand side in this process, None if there is none, or no CyRK."""
    if equations.right is None or _engine() is None:
        return None
    from ._compiled import NumbaError

    try:
        return equations.right.address()
    except NumbaError as error:
        lines = str(error).strip().splitlines()
        reason = next((line for line in lines if not line.startswith("Failed in ")), lines[0])
        warnings.warn(
            f"Numba cannot compile {equations.name}, so Python evaluates it, which takes longer: {reason}",
            IntegrationWarning,
            stacklevel=4,
        )
        return None


@functools.cache
def _engine() -> Any:
    """Return our module that speaks to CyRK, None where there is no CyRK, or no Numba."""
    try:
        from . import _cyrk
    except ImportError:
        return None
    return _cyrk
