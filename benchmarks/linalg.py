"""Linear algebra on workers: ``python benchmarks/linalg.py`` prints each quantity, and its goal where it has one.

Times are given as a ratio to the same operation in this process, which has as many threads. The two take turns of a few
operations each, after a pause, for the threads of a library go on spinning for a while after it was used.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from baselines import clock, interleave
from report import Row, at_most, run

import farcall as fc

_SIZE = 1000
_TURN = 3  # operations in a row
_PAUSE = 0.1  # seconds until the threads of OpenBLAS sleep


def times_transpose(m: Any) -> Any:
    """Return the product of a matrix and its transpose."""
    return m @ m.T


def least_time(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes, the least of some in a row."""
    time.sleep(_PAUSE)
    times = []
    for _ in range(_TURN):
        started = clock()
        action()
        times.append(clock() - started)
    return min(times)


def measure_operations(rounds: int) -> Iterator[Row]:
    """Yield what an inverse, a product and an SVD take on a worker, transfer included, over the same here."""
    m = np.random.default_rng(1).random((_SIZE, _SIZE))
    operations = (np.linalg.inv, m), (times_transpose, m), (np.linalg.svd, times_transpose(m))
    cores = len(os.sched_getaffinity(0))
    with fc.addprocs(1, threads=cores) as [worker]:
        actions = [partial(f, a) for f, a in operations]
        calls = [partial(fc.remotecall_fetch, worker, f, a) for f, a in operations]
        times = interleave(rounds, *(partial(least_time, each) for each in (*calls, *actions)))
    there, here = times[: len(calls)], times[len(calls) :]
    for name, ours, alone in zip(("inverse", "product", "SVD"), there, here, strict=True):
        yield at_most(f"{name} of {_SIZE} x {_SIZE} on a worker, over one here", ours, alone)
    yield at_most("all three", sum(there), sum(here), 1.15)


def measure_threads(rounds: int) -> Iterator[Row]:
    """Yield what some SVDs take on as many workers as there are cores, over one after the other here."""
    cores = len(os.sched_getaffinity(0))
    matrices = list(np.random.default_rng(2).random((2 * cores, _SIZE // 2, _SIZE // 2)))
    with fc.addprocs(cores) as slim, fc.addprocs(cores, threads=cores) as fat:
        pools = fc.WorkerPool(slim), fc.WorkerPool(fat)
        of_slim, of_fat, alone = interleave(
            rounds,
            *(partial(least_time, partial(fc.pmap, np.linalg.svd, matrices, pool=pool)) for pool in pools),
            partial(least_time, lambda: [np.linalg.svd(each) for each in matrices]),
        )
    what = f"{len(matrices)} SVDs of {_SIZE // 2} x {_SIZE // 2} on {cores} workers"
    yield at_most(f"{what} of 1 thread, over here with {cores}", of_slim, alone, 1.0)
    if cores > 1:
        yield at_most(f"the same on workers of {cores} threads each, too many", of_fat, alone)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="over which medians are taken (7)")
    rounds = parser.parse_args().rounds
    run(row for measure in (measure_operations, measure_threads) for row in measure(rounds))


if __name__ == "__main__":
    main()
