"""A solution, and what it is between its steps."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._equations import find_name
from ._methods import DEGREES, Found, Vector
from ._problem import ODEProblem

_BLOCK = 1 << 14  # times that are interpolated at once


class Interpolation:
    """A polynomial for each step, kept as its values at Chebyshev points, the step's ends among them.

    Evaluated by the barycentric formula: J.-P. Berrut and L. N. Trefethen, "Barycentric Lagrange interpolation", SIAM
    Review 46 (2004).
    """

    def __init__(self, found: Found) -> None:
        assert found.interpolate is not None
        degree = DEGREES[found.method]
        self._points = -np.cos(np.pi * np.arange(degree + 1) / degree)
        self._weights = (-1.0) ** np.arange(degree + 1)
        self._weights[[0, -1]] /= 2
        self._t = found.t
        starts, lengths = found.t[:-1, None], np.diff(found.t)[:, None]
        inner = starts + lengths * (1 + self._points[1:-1]) / 2
        values = found.interpolate(np.ascontiguousarray(inner.ravel())).reshape(*inner.shape, -1)
        y = found.y.T[:, None, :]
        self._values = np.concatenate([y[:-1], values, y[1:]], axis=1)  # by step, point and state

    def __call__(self, t: Vector) -> Vector:
        """Return a row for each state."""
        parts = [self._evaluate(t[first : first + _BLOCK]) for first in range(0, t.size, _BLOCK)]
        return np.concatenate(parts, axis=1) if parts else np.empty((self._values.shape[2], 0))

    def _evaluate(self, t: Vector) -> Vector:
        forward = self._t[-1] >= self._t[0]
        ordered = self._t if forward else self._t[::-1]
        steps = np.clip(np.searchsorted(ordered, t, side="right") - 1, 0, ordered.size - 2)
        steps = steps if forward else ordered.size - 2 - steps
        place = 2 * (t - self._t[steps]) / (self._t[steps + 1] - self._t[steps]) - 1
        distances = place[:, None] - self._points
        exact = distances == 0
        with np.errstate(divide="ignore"):
            weights = np.where(exact.any(axis=1)[:, None], exact, self._weights / distances)
        weights /= weights.sum(axis=1)[:, None]
        found: Vector = np.einsum("tp,tps->st", weights, self._values[steps])
        return found


class Solution:
    """The states over time: ``t``, and ``y`` with a row for each state, which ``solution["x"]`` is by its name.

    Without ``saveat=`` these are the steps, and ``solution(t)`` is what is in between. ``method`` is the one that was
    used; if ``solve`` chose it, ``stiff`` says whether it was because the problem is stiff. Where ``success`` is false
    the solution ends before its time, ``message`` says why. ``t_events`` and ``y_events`` have the times and states of
    each event. ``steps`` and ``evaluations`` count. It can be pickled.
    """

    def __init__(self, problem: ODEProblem, found: Found) -> None:
        self.problem = problem
        self.t = found.t
        self.y = found.y
        self.method = found.method
        self.stiff = found.stiff
        self.success = not found.message
        self.message = found.message or ("an event has ended it" if found.terminated else "it is complete")
        self.steps = found.steps
        self.evaluations = found.evaluations
        self.t_events = list(found.t_events)
        self.y_events = list(found.y_events)
        self._found: Found | None = found if found.interpolate is not None else None
        self._interpolation: Interpolation | None = None

    def __repr__(self) -> str:
        end = "" if self.success else f", which is not its end: {self.message}"
        name, count = self.problem.equations.name, f"{self.steps:,} step{'s' if self.steps != 1 else ''}"
        return f"<Solution of {name}: {count} of {self.describe_method()} to t = {self._end():.6g}{end}>"

    def _end(self) -> float:
        return float(self.t[-1]) if self.t.size else self.problem.tspan[0]

    def describe_method(self) -> str:
        """Return the name of the method, and why it was chosen."""
        reason = {None: "", True: " (stiff)", False: " (not stiff)"}[self.stiff]
        return f"{self.method}{reason}"

    def __getitem__(self, state: str) -> Vector:
        """Return the values of one state."""
        states = self.problem.states
        row: Vector = self.y[states.index(find_name(state, states, self.problem.equations.name, "state"))]
        return row

    def __call__(self, t: Any) -> Vector:
        """Return the states at a time, or a row for each state at times; to the order of the method."""
        times = np.array(t, dtype=np.float64)
        interpolation = self._interpolate()
        low, high = sorted((float(self.t[0]), float(self.t[-1])))
        if not ((times >= low) & (times <= high)).all():
            raise ValueError(f"the solution is known from t = {low:g} to {high:g}, and was asked for {t!r:.100}")
        found = interpolation(times.ravel())
        return found.reshape(-1, *times.shape)

    @property
    def is_continuous(self) -> bool:
        """Whether it is known between the times that were saved."""
        return self._interpolation is not None or (self._found is not None and self.t.size > 1)

    def _interpolate(self) -> Interpolation:
        if self._interpolation is None:
            if self._found is None or not self.is_continuous:
                raise ValueError(
                    "between what was saved this solution is not known: "
                    + (self.message if not self.success else "leave out saveat=, or put these times into it")
                )
            self._interpolation = Interpolation(self._found)
            self._found = None
        return self._interpolation

    def __getstate__(self) -> dict[str, Any]:
        if self.is_continuous:
            self._interpolate()
        return vars(self) | {"_found": None}

    def _repr_html_(self) -> str:
        rows: Sequence[tuple[str, str]] = [
            ("problem", repr(self.problem)[1:-1]),
            ("method", self.describe_method()),
            ("saved", f"{self.t.size:,} times to t = {self._end():.6g}"),
            ("work", f"{self.steps:,} steps, {self.evaluations:,} evaluations"),
            ("events", ", ".join(f"{each.size:,}" for each in self.t_events)),
            ("end", self.message),
        ]
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in rows if value)
        return f"<table>{cells}</table>"

    def plot(self, *names: str, axes: Any = None) -> Any:
        """Draw the solution with matplotlib and return the axes.

        ``plot("x")`` draws a state over time, ``plot("x", "z")`` one over another, ``plot("x", "y", "z")`` in three
        dimensions, and ``plot("t")`` all over time. ``plot()`` takes all three dimensions of what has three states.

        >>> import farcall as fc
        >>> @fc.ode.ode_def
        ... def decay(x):
        ...     dx = -x
        >>> axes = fc.ode.solve(fc.ode.ODEProblem(decay, [1.0], (0.0, 5.0))).plot()
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('t', 'x')
        >>> import matplotlib.pyplot as plt
        >>> plt.close(axes.figure)
        """
        from ._figures import plot

        return plot(self, names, axes)

    def animate(self, path: Any, *names: str, seconds: float = 8.0, frames_per_second: int = 20) -> None:
        """Write a GIF, or what else the end of the path says, in which the solution comes about.

        ``names`` as of ``plot``, in two or three dimensions.
        """
        from ._figures import animate

        animate(self, path, names, seconds, frames_per_second)
