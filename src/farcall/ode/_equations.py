"""Differential equations: those that ``ode_def`` reads, and plain functions f(t, y, p)."""

import functools
import inspect
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._methods import Vector
from ._source import TIME, read_definition

if TYPE_CHECKING:
    from ._compiled import Right

_MOST_FUNCTIONS = 32  # that are remembered, with what was compiled of them

EventFunction = Callable[[float, Vector, Vector], float]


class Equations(ABC):
    """The right-hand side of dy/dt = f(t, y, p). ``right`` is what Numba makes of it, None where there is no Numba."""

    name: str
    right: "Right | None"

    @abstractmethod
    def rates(self, t: float, y: Vector, p: Vector) -> Vector:
        """Return the derivatives of the states, computed by Python."""

    @abstractmethod
    def names_of_states(self, count: int) -> tuple[str, ...]:
        """Return a name for each state."""

    @abstractmethod
    def names_of_parameters(self, count: int) -> tuple[str, ...]:
        """Return a name for each parameter."""

    @abstractmethod
    def read_parameters(self, p: Any) -> Vector:
        """Return the values of all parameters, as a user may have written them."""

    @abstractmethod
    def read_event(self, event: Callable[..., float]) -> EventFunction:
        """Return a function of t, y and p for one as a user may have written it."""


class System(Equations):
    """Differential equations that ``ode_def`` has read.

    Called like the function that they are made of, they return the derivatives as a tuple; ``rates(t, y, p)`` returns
    them as an array.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        definition = read_definition(function)
        self.name = function.__name__
        self.states = tuple(each for each in definition.arguments if each != TIME)
        self.parameters = definition.parameters
        self.defaults = {
            name: _number(value, f"{self.name}: the default of {name}")
            for name, value in (function.__kwdefaults__ or {}).items()
        }
        self._arguments = definition.arguments
        self.py_func = definition.function  # called as Numba calls its own, so that a checkpoint knows it by its code
        self._signature = inspect.signature(function)
        self.right = _compile_states(definition.function, definition.arguments, len(self.states), len(self.parameters))
        functools.update_wrapper(self, function, updated=())
        del self.__wrapped__  # type: ignore[attr-defined]  # nobody needs it, and it would travel along

    def __repr__(self) -> str:
        return f"<ode {self.name}: states {', '.join(self.states)}; parameters {', '.join(self.parameters) or 'none'}>"

    def __call__(self, *states: float, **parameters: float) -> tuple[float, ...]:
        bound = self._signature.bind(*states, **parameters)
        bound.apply_defaults()
        found: tuple[float, ...] = self.py_func(*bound.arguments.values())
        return found

    def rates(self, t: float, y: Vector, p: Vector | None = None) -> Vector:
        """Return the derivatives of the states; without ``p``, with the defaults of the parameters."""
        values = iter(y)
        given = [t if each == TIME else next(values) for each in self._arguments]
        return np.array(self.py_func(*given, *(self.read_parameters(None) if p is None else p)), dtype=np.float64)

    def names_of_states(self, count: int) -> tuple[str, ...]:
        return self.states

    def names_of_parameters(self, count: int) -> tuple[str, ...]:
        return self.parameters

    def read_parameters(self, p: Any) -> Vector:
        given = self.defaults.copy()
        if isinstance(p, Mapping):
            given |= {find_name(name, self.parameters, self.name, "parameter"): value for name, value in p.items()}
        elif p is not None:
            values = np.atleast_1d(np.asarray(p))
            if values.shape != (len(self.parameters),):
                names = ", ".join(self.parameters)
                raise ValueError(f"{self.name} has {len(self.parameters)} parameters ({names}), not {values.size}")
            given = dict(zip(self.parameters, values, strict=True))
        missing = [name for name in self.parameters if name not in given]
        if missing:
            raise ValueError(f"{self.name}: {missing[0]} has no default and no value: write p={{'{missing[0]}': …}}")
        return np.array([_number(given[name], f"{self.name}: {name}") for name in self.parameters])

    def read_event(self, event: Callable[..., float]) -> EventFunction:
        names = list(inspect.signature(event).parameters)
        places = {name: place for place, name in enumerate([*self.states, *self.parameters, TIME])}
        unknown = [name for name in names if name not in places]
        if unknown:
            raise ValueError(f"an event of {self.name} takes {', '.join(places)}, by these names, not {unknown[0]}")
        chosen = [places[name] for name in names]

        def call(t: float, y: Vector, p: Vector) -> float:
            values = [*y, *p, t]
            return event(*[values[place] for place in chosen])

        return call


class PlainEquations(Equations):
    """A function f(t, y, p), or f(t, y), that returns the derivatives of the states."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self.py_func = getattr(function, "py_func", function)
        self._takes_parameters = _count_arguments(function, self.name) == 3
        self.right = _compile_arrays(function, self._takes_parameters)

    def __repr__(self) -> str:
        return f"<ode {self.name}>"

    def rates(self, t: float, y: Vector, p: Vector) -> Vector:
        found = self.py_func(t, y, p) if self._takes_parameters else self.py_func(t, y)
        if np.iscomplexobj(found):
            raise TypeError(
                f"{self.name} returns complex numbers: write real and imaginary parts as states of their own"
            )
        rates = np.array(found, dtype=np.float64)
        if rates.shape != y.shape:
            raise ValueError(f"{self.name} returns {rates.size} derivatives of {y.size} states")
        return rates

    def names_of_states(self, count: int) -> tuple[str, ...]:
        return tuple(f"y{index}" for index in range(count))

    def names_of_parameters(self, count: int) -> tuple[str, ...]:
        return tuple(f"p{index}" for index in range(count))

    def read_parameters(self, p: Any) -> Vector:
        if isinstance(p, Mapping):
            raise TypeError(f"{self.name} gets its parameters as an array, in their order: write p=[…]")
        if p is not None and not self._takes_parameters:
            raise TypeError(f"{self.name} takes no parameters: write it as f(t, y, p)")
        return np.array([] if p is None else np.atleast_1d(p), dtype=np.float64)

    def read_event(self, event: Callable[..., float]) -> EventFunction:
        if _count_arguments(event, "an event") == 3:
            return event
        return lambda t, y, p: event(t, y)


def ode_def(function: Callable[..., Any]) -> System:
    """Return the differential equations that a function defines, as its decorator.

    Its positional arguments are the states, and ``t`` the time if it is among them; its keyword-only arguments are the
    parameters, with their defaults. It assigns the derivative of each state ``x`` to ``dx``; where a state itself is
    called ``dx`` it is that. Other names are what they are in any function; Numba compiles it when a problem is solved
    first. A mistake is a SyntaxError that shows the line. Julia: ``@ode_def``.

    >>> import farcall as fc
    >>> @fc.ode.ode_def
    ... def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
    ...     dx = σ * (y - x)
    ...     dy = x * (ρ - z) - y
    ...     dz = x * y - β * z
    >>> lorenz
    <ode lorenz: states x, y, z; parameters σ, ρ, β>
    >>> lorenz(1.0, 2.0, 3.0, ρ=5.0, β=2.0)
    (10.0, 0.0, -4.0)
    """
    return System(function)


def equations_of(function: Any) -> Equations:
    """Return the equations that are given as such, or as a function f(t, y, p)."""
    if isinstance(function, Equations):
        return function
    if not callable(function):
        raise TypeError(f"{function!r:.100} cannot be called: f is what ode_def has made, or a function f(t, y, p)")
    return _plain_equations(function)


@functools.lru_cache(_MOST_FUNCTIONS)
def _plain_equations(function: Callable[..., Any]) -> PlainEquations:
    return PlainEquations(function)


def find_name(name: str, known: Sequence[str], of: str, kind: str) -> str:
    """Return a name as Python normalises it; ValueError if it is not among those that are known."""
    normal = unicodedata.normalize("NFKC", str(name))
    if normal not in known:
        raise ValueError(f"{of} has no {kind} {name}: it has {', '.join(known) or 'none'}")
    return normal


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be a real number, and is {value!r:.100}") from None


def _count_arguments(function: Callable[..., Any], name: str) -> int:
    count = len(inspect.signature(function).parameters)
    if count not in (2, 3):
        raise TypeError(f"{name} takes {count} arguments: write it as f(t, y, p) or f(t, y)")
    return count


def _compile_states(function: Any, arguments: Sequence[str], states: int, parameters: int) -> "Right | None":
    try:
        from . import _compiled
    except ImportError:
        return None
    return _compiled.right_of_states(function, arguments, states, parameters)


def _compile_arrays(function: Any, takes_parameters: bool) -> "Right | None":
    try:
        from . import _compiled
    except ImportError:
        return None
    return _compiled.right_of_arrays(function, takes_parameters)
