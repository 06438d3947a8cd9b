"""The methods by their names, what is asked of them, and what they find."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# Explicit Runge-Kutta methods, those for stiff equations, and LSODA, which changes between formulas of Adams and BDF.
# Between two steps a solution is a polynomial of the degree beside the name, or of a lower one.
DEGREES = {
    "RK23": 3,
    "RK45": 4,
    "Tsit5": 4,
    "DOP853": 7,
    "Vern7": 7,
    "Vern8": 8,
    "BDF": 5,
    "Radau": 3,
    "LSODA": 12,
}
EXPLICIT = ("RK23", "RK45", "Tsit5", "DOP853", "Vern7", "Vern8")


class IntegrationWarning(UserWarning):
    """A solution ends before its time, or takes longer than it need."""


@dataclass(frozen=True)
class Request:
    """What is asked of a method, checked."""

    method: str | None
    rtol: Vector
    atol: Vector
    saveat: Vector | None
    events: Sequence[Callable[..., float]] = ()
    progress: Callable[[float], object] | None = None


@dataclass(frozen=True)
class Found:
    """What a method has found. ``y`` has a row for each state; ``interpolate`` gives one for each time."""

    t: Vector
    y: Vector
    method: str
    stiff: bool | None
    message: str  # empty if all is well
    steps: int
    evaluations: int
    interpolate: Callable[[Vector], Vector] | None = None
    t_events: Sequence[Vector] = ()
    y_events: Sequence[Vector] = ()
    terminated: bool = False


def read_method(name: str | None) -> str | None:
    """Return a method's name as it is written here; ValueError that lists them if there is no such method."""
    if name is None:
        return None
    for known in DEGREES:
        if str(name).lower() == known.lower():
            return known
    raise ValueError(f"method={name!r}: write one of {', '.join(DEGREES)}, or leave it out")


def read_tolerances(rtol: Any, atol: Any, states: int) -> tuple[Vector, Vector]:
    """Return tolerances as arrays of one number, or of one for each state."""
    return _read_tolerance("rtol", rtol, states), _read_tolerance("atol", atol, states)


def _read_tolerance(name: str, value: Any, states: int) -> Vector:
    try:
        array = np.array(value, dtype=np.float64, ndmin=1)
    except (TypeError, ValueError):
        array = np.array([-1.0])
    least, most = float(array.min(initial=math.inf)), float(array.max(initial=-math.inf))
    if array.shape not in ((1,), (states,)) or not (0 <= least <= most < math.inf):
        raise ValueError(f"{name}={value!r}: write a small number, or one for each of the {states} states")
    if name == "rtol" and least == 0:
        raise ValueError(f"rtol={value!r}: write a number above 0; 1e-13 is about the least that can be kept to")
    return array


def read_saveat(saveat: Any, tspan: tuple[float, float]) -> Vector | None:
    """Return the times at which to save; a number is the distance between them."""
    if saveat is None:
        return None
    t0, t1 = tspan
    try:
        times = np.asarray(saveat, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.array(-1.0)
    if times.ndim == 0:
        distance = float(times)
        if not (distance > 0 and np.isfinite(distance)):
            raise ValueError(f"saveat={saveat!r}: write the distance between two times, or an array of times")
        count = int(np.floor(abs(t1 - t0) / distance * (1 + 1e-12)))
        times = t0 + np.sign(t1 - t0) * distance * np.arange(count + 1)
        times = np.append(times[np.abs(times - t0) < abs(t1 - t0) - 1e-9 * distance], t1)
    if (
        times.ndim != 1
        or not times.size
        or not _is_in_order(times if t1 >= t0 else times[::-1], min(t0, t1), max(t0, t1))
    ):
        raise ValueError(f"saveat must be times from {t0:g} to {t1:g}, one after the other, and is {saveat!r:.100}")
    return np.ascontiguousarray(times)


def _is_in_order(times: Vector, first: float, last: float) -> bool:
    return bool(first <= times[0] and times[-1] <= last and (times[1:] > times[:-1]).all())
