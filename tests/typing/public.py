"""Types of the public calls; checked by the type checker, never run."""

from collections.abc import Iterator
from typing import assert_type

import farcall as fc


def add(x: int, y: int) -> int:
    return x + y


def check() -> None:
    """A call has the type of its function's value, and takes the function's arguments."""
    assert_type(fc.addprocs(2), fc.Procs)
    assert_type(fc.spawnat(2, add, 1, 2), fc.Future[int])
    assert_type(fc.spawnat("any", add, 1, y=2).result(), int)
    assert_type(fc.remotecall_fetch(2, add, 1, 2), int)
    assert_type(fc.remote(add)(1, 2), int)
    assert_type(fc.rmprocs(2, waitfor=0), fc.Future[None])
    fc.spawnat(2, add, "1")  # type: ignore[arg-type, call-arg]
    fc.remotecall_fetch(2, add, 1, 2, z=3)  # type: ignore[call-arg]


@fc.everywhere
def later(x: float) -> str:
    return str(x)


def check_everywhere() -> None:
    """A decorated function keeps its type."""
    assert_type(later(1.0), str)


@fc.timed
def timed_add(x: int, y: int = 1) -> int:
    return x + y


@fc.timed(quiet=True)
def timed_seven() -> int:
    return 7


def check_timed() -> None:
    """A timed call has the type of its function's value; a decorated function keeps its type, arguments and all."""
    assert_type(fc.timed(add, 1, y=2), int)
    assert_type(fc.timed(timed_seven), int)
    assert_type(fc.timed()(add)(1, 2), int)
    assert_type(timed_add(1), int)
    assert_type(timed_seven(), int)
    with fc.timed() as t:
        assert_type(t, fc.Timed)
    assert_type(t.remote[0].queue + t.totals[0].run + t.seconds, float)
    timed_add("1")  # type: ignore[arg-type]
    fc.timed(quiet=1)  # type: ignore[call-overload]


def check_maps() -> None:
    """Maps have the type of their function's values, and know their options."""
    assert_type(fc.pmap(add, [1], [2], retry_delays=[1.0], progress=True), list[int])
    assert_type(fc.imap(later, [1.0], ordered=False, seed=3), Iterator[str])
    assert_type(fc.pmapreduce(len, max, ["a"]), int)
    fc.pforeach(print, [1])
    fc.pmap(add, [1], [2], chunksize=3)  # type: ignore[call-arg]
    fc.pmap(add, [1], [2], batch_size="3")  # type: ignore[arg-type]


def check_engines() -> None:
    """Engines have their types, imported early or late, and know their options."""
    assert_type(fc.addprocs(fc.engines.Local(2, threads=2)), fc.Procs)
    assert_type(fc.engines.MPI(threads=2), fc.engines.MPI)
    fc.engines.MPI(2)  # type: ignore[call-arg]


def check_differential_equations(problem: fc.ode.ODEProblem) -> None:
    """What solve returns depends on what it solves; options of ensembles are theirs."""
    assert_type(fc.ode.solve(problem, "Radau", saveat=0.1), fc.ode.Solution)
    assert_type(fc.ode.solve(fc.ode.EnsembleProblem(problem), seed=1), fc.ode.EnsembleSolution)
    fc.ode.solve(problem, seed=1)  # type: ignore[call-overload]
    fc.ode.solve(problem, maxiters=10)  # type: ignore[call-overload]
