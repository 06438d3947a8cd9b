"""Many problems that differ in numbers only, over the workers."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

from .._pmap import imap
from .._pmap.progress import Progress
from .._pool import WorkerPool
from ._equations import find_name
from ._integrate import address_of
from ._members import Chunk, Members, integrate_by_python, number_members
from ._methods import IntegrationWarning, Request, Vector
from ._problem import ODEProblem
from ._python import METHOD_OF_PYTHON

_MOST_CHUNKS = 256  # if there are not very many members; enough for workers to finish together
_LARGEST_CHUNK = 64  # members: long enough for the cost of a chunk not to matter, and few for long trajectories


class SpreadOptions(TypedDict, total=False):
    """What ``solve`` takes besides for an ensemble."""

    pool: WorkerPool | None
    seed: Any
    checkpoint: str | os.PathLike[str] | None


class EnsembleProblem:
    """A problem many times, with other parameters or initial states.

    ``parameters`` and ``u0`` have for some names an array of values, or a function of a ``numpy.random.Generator``
    that draws one. Arrays are broadcast against each other, as NumPy does, to the ``shape`` of the ensemble: one for
    each of a thousand trajectories, or ``a[:, None]`` and ``b[None, :]`` for all pairs. Where all is drawn,
    ``trajectories`` says how many there are.

    >>> import numpy as np
    >>> import farcall as fc
    >>> @fc.ode.ode_def
    ... def decay(x, *, k=1.0):
    ...     dx = -k * x
    >>> problem = fc.ode.ODEProblem(decay, [1.0], (0.0, 1.0))
    >>> fc.ode.EnsembleProblem(problem, parameters={"k": np.linspace(0, 1, 5)})
    <EnsembleProblem decay: 5 trajectories, with other k>
    >>> fc.ode.EnsembleProblem(problem, u0={"x": lambda rng: rng.random()}, trajectories=10)
    <EnsembleProblem decay: 10 trajectories, with other x>
    """

    def __init__(
        self,
        problem: ODEProblem,
        parameters: Mapping[str, Any] | None = None,
        u0: Mapping[str, Any] | None = None,
        trajectories: int | tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(problem, ODEProblem):
            raise TypeError(f"an EnsembleProblem is made of an ODEProblem, not of {problem!r:.100}")
        self.problem = problem
        places: dict[str, int] = {}
        values: dict[str, Any] = {}
        name = problem.equations.name
        for given, known, kind, first in (
            (u0, problem.states, "state", 0),
            (parameters, problem.parameters, "parameter", problem.u0.size),
        ):
            for each, value in (given or {}).items():
                found = find_name(each, known, name, kind)
                places[found], values[found] = first + known.index(found), value
        self.names = tuple(places)
        self.drawn = tuple((places[each], values[each]) for each in places if callable(values[each]))
        arrays = {each: _read_array(each, values[each]) for each in places if not callable(values[each])}
        self.shape = _read_shape(arrays, trajectories)
        self.given = tuple(places[each] for each in arrays)
        self.rows = np.empty((math.prod(self.shape), len(arrays)))
        for column, array in enumerate(arrays.values()):
            self.rows[:, column] = np.broadcast_to(array, self.shape).ravel()

    def __repr__(self) -> str:
        count, names = count_trajectories(math.prod(self.shape)), ", ".join(self.names) or "nothing"
        return f"<EnsembleProblem {self.problem.equations.name}: {count}, with other {names}>"


class EnsembleSolution:
    """The trajectories of an ensemble in one array: ``y`` has the axes of the ensemble, then state and time.

    ``solution["x"]`` is one state of it, ``t`` the times, ``values["ρ"]`` what each trajectory had for what differs.
    Where ``success`` is false, a trajectory ended before its time: what it did not reach is NaN, and ``ended`` says
    for its index when and why. ``stiff`` says which were so, if ``solve`` chose the method. It can be pickled.
    """

    def __init__(self, ensemble: EnsembleProblem, request: Request, parts: Members) -> None:
        assert request.saveat is not None
        shape, problem = ensemble.shape, ensemble.problem
        self.problem = problem
        self.t = request.saveat
        self.y = parts.y.reshape(*shape, *parts.y.shape[1:])
        names = [*problem.states, *problem.parameters]
        self.values = {name: parts.numbers[:, names.index(name)].reshape(shape) for name in ensemble.names}
        self.stiff = parts.stiff.reshape(shape) if request.method is None else None
        self.ended = {tuple(map(int, np.unravel_index(each, shape))): why for each, why in parts.ended.items()}
        self.success = np.ones(shape, np.bool_)
        for each in self.ended:
            self.success[each] = False

    def __repr__(self) -> str:
        whole = f"{count_trajectories(self.success.size)} at {self.t.size:,} time{'s' if self.t.size != 1 else ''}"
        ended = f", {len(self.ended):,} of which end early" if self.ended else ""
        return f"<EnsembleSolution of {self.problem.equations.name}: {whole}{ended}>"

    def __getitem__(self, state: str) -> Vector:
        """Return the values of one state."""
        states = self.problem.states
        place = states.index(find_name(state, states, self.problem.equations.name, "state"))
        values: Vector = self.y[..., place, :]
        return values


def solve_ensemble(
    ensemble: EnsembleProblem, request: Request, progress: Any, options: SpreadOptions
) -> EnsembleSolution:
    """Return the trajectories, integrated on the workers in chunks."""
    seed = options.pop("seed", None)
    if request.saveat is None:
        request = replace(request, saveat=np.array([ensemble.problem.tspan[1]]))
    if seed is not None and not ensemble.drawn:
        raise ValueError("seed= is for an ensemble that draws numbers: parameters={…: lambda rng: rng.normal()}")
    compiled = address_of(ensemble.problem.equations) is not None
    if request.method is None and not compiled:
        request = replace(request, method=METHOD_OF_PYTHON)
    count = len(ensemble.rows)
    size = min(_LARGEST_CHUNK, math.ceil(count / _MOST_CHUNKS)) or 1
    function = _make_function(ensemble, request, seed, compiled)
    everything = function((0, ensemble.rows[:0]))  # of no member, so that all is compiled here and nowhere else
    everything = _allocate(everything, count)
    bar = _Bar(Progress(progress, count, ensemble.problem.equations.name, "trajectory"), count, size)
    try:
        first = 0
        for part in imap(function, list(_chunks(ensemble.rows, size)), progress=bar, **options):
            place = slice(first, first + len(part.numbers))
            for whole, values in zip(everything[:3], part[:3], strict=True):
                whole[place] = values
            everything.ended.update({first + member: why for member, why in part.ended.items()})
            first = place.stop
    finally:
        bar.close()
    solution = EnsembleSolution(ensemble, request, everything)
    _warn(solution)
    return solution


def count_trajectories(count: int) -> str:
    """Return a number of trajectories in words."""
    return f"{count:,} trajector{'ies' if count != 1 else 'y'}"


def _make_function(
    ensemble: EnsembleProblem, request: Request, seed: Any, compiled: bool
) -> Callable[[Chunk], Members]:
    """Return what the workers run: it captures the compiled loop, so that its machine code travels."""
    problem, given, drawn = ensemble.problem, ensemble.given, ensemble.drawn
    equations, tspan, states = problem.equations, problem.tspan, problem.u0.size
    common = np.concatenate([problem.u0, problem.p])
    if not compiled:

        def members(chunk: Chunk) -> Members:
            numbers = number_members(chunk, common, given, drawn, seed)
            return integrate_by_python(equations, tspan, request, numbers, states, chunk[0])

        return members
    from ._loop import integrate_by_loop, integrate_members

    loop = integrate_members

    def compiled_members(chunk: Chunk) -> Members:
        numbers = number_members(chunk, common, given, drawn, seed)
        return integrate_by_loop(loop, equations, tspan, request, numbers, states, chunk[0])

    return compiled_members


def _chunks(rows: Vector, size: int) -> Iterator[Chunk]:
    for first in range(0, len(rows), size):
        yield first, rows[first : first + size]


def _allocate(none: Members, count: int) -> Members:
    """Return memory for so many members as there are none of."""
    y, numbers, stiff = (np.empty((count, *each.shape[1:]), each.dtype) for each in none[:3])
    return Members(y, numbers, stiff, {})


class _Bar:
    """Progress in trajectories, told in chunks."""

    def __init__(self, progress: Progress, count: int, size: int) -> None:
        self._progress = progress
        self._left = count
        self._size = size

    def update(self, chunks: int) -> None:
        done = min(chunks * self._size, self._left)
        self._left -= done
        self._progress.advance(done, 0)

    def close(self) -> None:
        self._progress.close()


def _warn(solution: EnsembleSolution) -> None:
    if solution.ended:
        index, (t, why) = next(iter(solution.ended.items()))
        values = ", ".join(f"{name} = {array[index]:g}" for name, array in solution.values.items())
        warnings.warn(
            f"{len(solution.ended):,} of {solution.success.size:,} trajectories of {solution.problem.equations.name} "
            f"end before their time, one with {values} at t = {t:g}: {why}; solution.ended lists them",
            IntegrationWarning,
            stacklevel=4,
        )


def _read_array(name: str, values: Any) -> Vector:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}={values!r:.100}: write finite numbers, or a function that draws one: lambda rng: …")
    return array


def _read_shape(arrays: Mapping[str, Vector], trajectories: Any) -> tuple[int, ...]:
    """Return the shape that arrays have together, and with the number of trajectories."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if trajectories is not None:
        shapes["trajectories"] = (trajectories,) if isinstance(trajectories, int) else tuple(trajectories)
        if not all(isinstance(each, int) and each >= 0 for each in shapes["trajectories"]):
            raise ValueError(f"trajectories={trajectories!r}: write how many there are, or the shape of their array")
    try:
        shape = np.broadcast_shapes(*shapes.values())
    except ValueError:
        told = ", ".join(f"{name} {each}" for name, each in shapes.items())
        raise ValueError(f"these shapes differ: {told}; for all pairs write a[:, None] and b[None, :]") from None
    if not shape:
        raise ValueError("how many trajectories are there? Write trajectories=…, or an array of values")
    return shape
