"""What ``timed`` costs: ``python benchmarks/timed.py`` prints each quantity and its goal.

Times are given as a ratio to a baseline that is measured in the same run: the two take turns, and each counts with
its median over the rounds.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from io import StringIO

from baselines import interleave, mean_time, placed
from report import Row, at_most, duration, run

import farcall as fc

_BLOCKS = 10_000
_CALLS = 1000
_MOST = 10e-6  # seconds that a block may cost


class Nothing:
    """A context manager that does nothing."""

    def __enter__(self) -> "Nothing":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def noop() -> None:
    """Do nothing."""


def empty() -> None:
    with Nothing():
        pass


def timed() -> None:
    with fc.timed():
        pass


def timed_quietly() -> None:
    with fc.timed(quiet=True):
        pass


def measure_blocks(rounds: int) -> Iterator[Row]:
    """Yield what a block costs in which nothing happens."""
    with redirect_stdout(StringIO()):
        baseline, *subjects = interleave(
            rounds,
            lambda: mean_time(empty, _BLOCKS),
            lambda: mean_time(timed, _BLOCKS),
            lambda: mean_time(timed_quietly, _BLOCKS),
        )
    for name, subject in zip(("a timed block that prints", "a timed block that is quiet"), subjects, strict=True):
        row = at_most(f"{name}, over a with block of nothing", subject, baseline)
        yield row._replace(goal=f"≤ {duration(_MOST)}", met=subject <= _MOST)


def measure_calls(rounds: int) -> Iterator[Row]:
    """Yield what a call costs in a block, both processes on one core, where times vary least."""
    with fc.addprocs(1) as [worker]:
        call = partial(fc.remotecall_fetch, worker, noop)
        mean_time(call, _CALLS)

        def in_a_block() -> float:
            with fc.timed(quiet=True):
                return mean_time(call, _CALLS)

        def in_blocks_of_their_own() -> float:
            def both() -> None:
                with fc.timed(quiet=True):
                    call()

            return mean_time(both, _CALLS)

        core = {min(os.sched_getaffinity(0))}
        with placed((os.getpid(), core), (fc.remotecall_fetch(worker, os.getpid), core)):
            baseline, *subjects = interleave(
                rounds, lambda: mean_time(call, _CALLS), in_a_block, in_blocks_of_their_own
            )
    for name, subject in zip(("in a block", "in a block of its own"), subjects, strict=True):
        yield at_most(f"remotecall_fetch of a no-op {name}, over one outside", subject, baseline)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="over which medians are taken (15)")
    rounds = parser.parse_args().rounds
    run(row for measure in (measure_blocks, measure_calls) for row in measure(rounds))


if __name__ == "__main__":
    main()
