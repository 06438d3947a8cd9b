"""Differential equations: defined as they are written, solved in compiled code, here or by the thousand on the workers.

``docs/ode.md`` tells how to use it. ``import farcall`` does not import this, ``fc.ode`` does; it needs NumPy and, to be
quick, Numba and CyRK (``pip install 'farcall[ode]'``).
"""

try:
    import numpy as _numpy  # noqa: F401
except ImportError as _error:
    raise ImportError("farcall.ode needs NumPy, and more: pip install 'farcall[ode]'") from _error

from ._ensemble import EnsembleProblem as EnsembleProblem
from ._ensemble import EnsembleSolution as EnsembleSolution
from ._equations import System as System
from ._equations import ode_def as ode_def
from ._methods import IntegrationWarning as IntegrationWarning
from ._problem import ODEProblem as ODEProblem
from ._solution import Solution as Solution
from ._solve import solve as solve
