"""What is to be solved."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._equations import equations_of, find_name
from ._methods import Vector


class ODEProblem:
    """dy/dt = f(t, y, p) with y(t0) = u0, for t from t0 to t1, which may be before t0.

    ``f`` is what ``ode_def`` has made, or a function f(t, y, p), or f(t, y), that returns the derivatives. ``u0`` are
    the initial states: numbers in their order, or a dict by their names. ``p`` are the parameters, likewise; what a
    dict leaves out has its default. Julia: ``ODEProblem``.

    >>> import farcall as fc
    >>> @fc.ode.ode_def
    ... def decay(x, *, k=1.0):
    ...     dx = -k * x
    >>> fc.ode.ODEProblem(decay, [1.0], (0.0, 5.0), {"k": 2.0})
    <ODEProblem decay: t from 0 to 5; x = 1; k = 2>
    """

    def __init__(self, f: Any, u0: Any, tspan: tuple[float, float], p: Any = None) -> None:
        self.equations = equations_of(f)
        self.tspan = _read_tspan(tspan)
        self.u0 = self._read_states(u0)
        self.p = self.equations.read_parameters(p)
        self.u0.flags.writeable = self.p.flags.writeable = False

    def __repr__(self) -> str:
        values = [(self.states, self.u0), (self.parameters, self.p)]
        told = [", ".join(f"{name} = {value:.4g}" for name, value in zip(*each, strict=True)) for each in values]
        given = "; ".join(each if len(each) < 200 else f"{each[:200]}…" for each in told if each)
        return f"<ODEProblem {self.equations.name}: t from {self.tspan[0]:g} to {self.tspan[1]:g}; {given}>"

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states."""
        return self.equations.names_of_states(self.u0.size)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return self.equations.names_of_parameters(self.p.size)

    def _read_states(self, u0: Any) -> Vector:
        name = self.equations.name
        if isinstance(u0, Mapping):
            known = self.equations.names_of_states(len(u0))
            given = {find_name(each, known, name, "state"): value for each, value in u0.items()}
            missing = [each for each in known if each not in given]
            if missing:
                raise ValueError(f"{name}: {missing[0]} has no initial value")
            u0 = [given[each] for each in known]
        states = np.array(u0, dtype=np.float64, ndmin=1)
        count = len(self.equations.names_of_states(states.size))
        if states.shape != (count,) or not count:
            wanted = f"{count} number{'s' if count > 1 else ''}" if count else "numbers"
            raise ValueError(f"u0={u0!r:.100}: write {wanted}, one for each state of {name}")
        if not np.isfinite(states).all():
            raise ValueError(f"u0={u0!r:.100}: an initial value must be a finite number")
        return states


def _read_tspan(tspan: Any) -> tuple[float, float]:
    try:
        t0, t1 = (float(each) for each in tspan)
    except (TypeError, ValueError):
        raise ValueError(f"tspan={tspan!r}: write two numbers, from when until when: (0.0, 10.0)") from None
    if not (np.isfinite(t0) and np.isfinite(t1)):
        raise ValueError(f"tspan={tspan!r}: the times must be finite")
    return t0, t1
