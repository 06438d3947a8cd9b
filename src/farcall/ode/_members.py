"""Some members of an ensemble: their numbers, what they come to, and how Python integrates them one after another."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._equations import Equations
from ._methods import Request, Vector
from ._problem import ODEProblem
from ._python import integrate_in_python

Chunk = tuple[int, Vector]
"""The index of a first member, and of it and the next ones the numbers that are given, a row for each."""


class Members(NamedTuple):
    """What some members came to. ``ended``: of those that end before their time, when and why."""

    y: Vector  # by member, state and time
    numbers: Vector  # the initial states and parameters, by member
    stiff: Any
    ended: dict[int, tuple[float, str]]


def number_members(
    chunk: Chunk, common: Vector, given: Sequence[int], drawn: Sequence[tuple[int, Callable[..., Any]]], seed: Any
) -> Vector:
    """Return the initial states and parameters of members: the common ones, those given, and those drawn at random.

    What a member draws depends on the seed and its index alone.
    """
    first, rows = chunk
    numbers = np.tile(common, (len(rows), 1))
    numbers[:, list(given)] = rows
    if drawn:
        for place, row in enumerate(numbers):
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(first + place,))))
            for column, function in drawn:
                row[column] = function(rng)
    return numbers


def integrate_by_python(
    equations: Equations, tspan: tuple[float, float], request: Request, numbers: Vector, states: int, first: int
) -> Members:
    """Return what the members with these numbers come to."""
    assert request.saveat is not None
    y = np.full((len(numbers), states, request.saveat.size), np.nan)
    ended = {}
    for member, row in enumerate(numbers):
        problem = ODEProblem(equations, row[:states], tspan, row[states:] if row.size > states else None)
        try:
            found = integrate_in_python(problem, None, request)
        except BaseException as error:
            error.add_note(f"trajectory {first + member} of the ensemble")
            raise
        y[member, :, : found.t.size] = found.y
        if found.message:
            ended[member] = float(found.t[-1]) if found.t.size else tspan[0], found.message
    return Members(y, numbers, np.zeros(len(numbers), np.bool_), ended)
