"""One integration, by whatever can do it: compiled where that is possible."""

import warnings

from ._equations import Equations
from ._methods import Found, IntegrationWarning, Request
from ._problem import ODEProblem
from ._python import integrate_in_python


def integrate(problem: ODEProblem, request: Request) -> Found:
    """Return what is found. Errors of the right-hand side are raised as they are."""
    right = address_of(problem.equations)
    if right is not None and not request.events:
        from ._cyrk import integrate_compiled

        return integrate_compiled(problem, right, request)
    known = problem.equations.right
    return integrate_in_python(problem, known.fill if right is not None and known is not None else None, request)


def address_of(equations: Equations) -> int | None:
    """Return the address of the compiled right-hand side in this process, None if there is none, or no CyRK."""
    try:
        from . import _cyrk  # noqa: F401
        from ._compiled import NumbaError
    except ImportError:
        return None
    if equations.right is None:
        return None
    try:
        return equations.right.address()
    except NumbaError as error:
        warnings.warn(
            f"Numba cannot compile {equations.name}, so Python evaluates it, which takes longer: "
            f"{str(error).strip().splitlines()[-1]}",
            IntegrationWarning,
            stacklevel=4,
        )
        return None
