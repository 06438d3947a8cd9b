"""How good maps are: ``python benchmarks/maps.py`` prints each quantity, its goal, and whether that is met.

Each is a ratio to a baseline measured in the same run, in turns with it; the median over the rounds counts.
``--only`` chooses among the groups, ``--quick`` does fewer rounds.
"""

import argparse
import contextlib
import heapq
import io
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from baselines import clock, interleave
from calls import Row, at_most, duration

import farcall as fc
from farcall._pmap.schedule import Policy, Recall, Schedule

_ITEMS = 200_000
_WORKERS = 2
_NAPS = 4000  # heavy-tailed items, a second the longest
_NAPPERS = 4
_BURNS = 2000  # items of a millisecond
_MILLISECOND = 1e-3
_PATIENCE = 120.0  # seconds for one peer, from its start to its end

OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # a worker more than there are cores
}


class Options(NamedTuple):
    """How much to measure."""

    rounds: int


def noop(x: int) -> int:
    """Return the item."""
    return x


def nap(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


def burn(loops: int) -> int:
    """Compute for some time."""
    total = 0
    for each in range(loops):
        total += each
    return total


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes, once."""
    started = clock()
    action()
    return clock() - started


# No-ops


def measure_noops(options: Options) -> Iterator[Row]:
    """Yield what one of many items costs that do nothing, over ``multiprocessing.Pool.map``."""
    items = list(range(_ITEMS))
    with fc.addprocs(_WORKERS), multiprocessing.get_context("spawn").Pool(_WORKERS) as pool:
        assert fc.pmap(noop, items) == pool.map(noop, items) == items
        base, listed, ranged, streamed, folded = interleave(
            options.rounds,
            lambda: timed(lambda: pool.map(noop, items)),
            lambda: timed(lambda: fc.pmap(noop, items)),
            lambda: timed(lambda: fc.pmap(noop, range(_ITEMS))),
            lambda: timed(lambda: sum(fc.imap(noop, items))),
            lambda: timed(lambda: fc.pmapreduce(noop, max, items)),
        )
        what = f"{_ITEMS:,} no-op items: pmap, over multiprocessing.Pool.map"
        yield at_most(f"{what}, per item", listed / _ITEMS, base / _ITEMS, 2.0)
        yield at_most("  pmap over a range", ranged / _ITEMS, base / _ITEMS)
        yield at_most("  imap, results consumed one by one", streamed / _ITEMS, base / _ITEMS)
        yield at_most("  pmapreduce with max", folded / _ITEMS, base / _ITEMS)
        yield from _peers_of_noops(options, base)


def _peers_of_noops(options: Options, base: float) -> Iterator[Row]:
    """Yield the same by other libraries, each in a process of its own."""
    for name, (module, _) in PEERS.items():
        if find_spec(module) is None:
            continue
        with tempfile.TemporaryDirectory(prefix="farcall-") as directory:
            command = [sys.executable, __file__, "--peer", name, "--rounds", str(max(1, options.rounds // 3))]
            places = {"TMPDIR": directory, "RAY_TMPDIR": directory}
            done = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | OPEN_MPI | places,
                start_new_session=True,  # a group of its own, so that nothing of it can be left
            )
            yield _row_of_peer(name, done, base)


def _row_of_peer(name: str, process: "subprocess.Popen[str]", base: float) -> Row:
    try:
        output, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return Row(f"  {name}", f"took longer than {_PATIENCE:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        return Row(f"  {name}", "failed: " + (errors.strip() or "no reason").splitlines()[-1])
    count, seconds = json.loads(output.splitlines()[-1])
    return at_most(f"  {name}, {count:,} items", seconds / count, base / _ITEMS)


def _measure_peer_here(name: str, rounds: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers'
        result = PEERS[name][1](list(range(_ITEMS)), rounds)
    print(json.dumps(result))


def _process_pool(items: list[int], rounds: int) -> tuple[int, float]:
    """Measure ``ProcessPoolExecutor`` with the best of some chunk sizes."""
    with ProcessPoolExecutor(_WORKERS, multiprocessing.get_context("spawn")) as executor:
        list(executor.map(noop, items, chunksize=1000))
        sizes = 1000, 5000, 25_000
        return len(items), min(
            interleave(rounds, *[lambda size=size: timed(lambda: list(executor.map(noop, items, chunksize=size)))
                                 for size in sizes])
        )  # fmt: skip


def _loky(items: list[int], rounds: int) -> tuple[int, float]:
    from loky import ProcessPoolExecutor as LokyExecutor

    with LokyExecutor(_WORKERS) as executor:
        list(executor.map(noop, items, chunksize=1000))
        return len(items), interleave(rounds, lambda: timed(lambda: list(executor.map(noop, items, chunksize=5000))))[0]


def _joblib(items: list[int], rounds: int) -> tuple[int, float]:
    from joblib import Parallel, delayed

    some = items[:20_000]
    with Parallel(_WORKERS) as parallel:
        parallel(delayed(noop)(each) for each in some)
        return len(some), interleave(rounds, lambda: timed(lambda: parallel(delayed(noop)(each) for each in some)))[0]


def _mpi(items: list[int], rounds: int) -> tuple[int, float]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor(_WORKERS) as executor:
        list(executor.map(noop, items, chunksize=1000))
        return len(items), interleave(rounds, lambda: timed(lambda: list(executor.map(noop, items, chunksize=5000))))[0]


def _dask(items: list[int], rounds: int) -> tuple[int, float]:
    from distributed import Client, LocalCluster

    some = items[:2000]
    with (
        LocalCluster(n_workers=_WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(noop, some, pure=False))
        return len(some), interleave(
            rounds, lambda: timed(lambda: client.gather(client.map(noop, some, pure=False)))
        )[0]  # fmt: skip


def _ray(items: list[int], rounds: int) -> tuple[int, float]:
    import ray

    some = items[:5000]
    ray.init(num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        remote = ray.remote(noop)
        ray.get([remote.remote(each) for each in some])
        return len(some), interleave(
            rounds, lambda: timed(lambda: ray.get([remote.remote(each) for each in some]))
        )[0]  # fmt: skip
    finally:
        ray.shutdown()


def _ipyparallel(items: list[int], rounds: int) -> tuple[int, float]:
    import ipyparallel

    with ipyparallel.Cluster(n=_WORKERS, log_level=40) as client:
        view = client[:]
        view.map_sync(noop, items)
        return len(items), interleave(rounds, lambda: timed(lambda: view.map_sync(noop, items)))[0]


PEERS: dict[str, tuple[str, Callable[[list[int], int], tuple[int, float]]]] = {
    "ProcessPoolExecutor.map with its best chunksize": ("concurrent.futures", _process_pool),
    "loky, chunksize 5000": ("loky", _loky),
    "joblib, its own batches": ("joblib", _joblib),
    "mpi4py.futures, chunksize 5000": ("mpi4py", _mpi),
    "Dask client.map": ("distributed", _dask),
    "Ray tasks": ("ray", _ray),
    "ipyparallel map_sync": ("ipyparallel", _ipyparallel),
}


# Heavy tails


def heavy_tailed(seed: int) -> list[float]:
    """Return times between a millisecond and a second, Pareto-distributed, of which the sum is far from evenly held."""
    return np.minimum(1.0, 1e-3 * (1 + np.random.default_rng(seed).pareto(1.0, _NAPS))).tolist()


def measure_tails(options: Options) -> Iterator[Row]:
    """Yield when heavy-tailed items are done, over the best schedule that there could be.

    That takes at least the work over the workers, and the longest item. A schedule that does not know how long
    items take, and gives the next one to whoever is free, without any cost, is printed for comparison.
    """
    ratios, frees, seconds, bests = [], [], [], []
    with fc.addprocs(_NAPPERS):
        fc.pmap(noop, range(1000))
        for seed in range(max(3, options.rounds // 2)):
            times = heavy_tailed(seed)
            best = max(max(times), sum(times) / _NAPPERS)
            took = timed(lambda times=times: fc.pmap(nap, times))
            ratios.append(took / best)
            frees.append(finish_of_list_schedule(times, _NAPPERS) / best)
            seconds.append(took)
            bests.append(best)
    yield Row(
        f"{_NAPS:,} heavy-tailed naps, {_NAPPERS} workers: finish over the best schedule",
        f"{median(ratios):5.3f} ({duration(median(seconds))} over {duration(median(bests))})",
        "≤ 1.05",
        median(ratios) <= 1.05,
    )
    yield Row("  each order of items", " ".join(f"{each:.3f}" for each in ratios))
    yield Row("  list scheduling in the same orders, at no cost", " ".join(f"{each:.3f}" for each in frees))


def finish_of_list_schedule(times: list[float], workers: int) -> float:
    """Return when all is done if each item goes to the worker that is free first."""
    free = [0.0] * workers
    for each in times:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


# Computing


def measure_burns(options: Options) -> Iterator[Row]:
    """Yield the throughput of items of a millisecond, over that of two bare processes that loop over half each."""
    loops = max(1, int(_MILLISECOND / min(timed(lambda: burn(10_000)) for _ in range(50)) * 10_000))
    items = [loops] * _BURNS
    context = multiprocessing.get_context("spawn")
    with fc.addprocs(_WORKERS):
        fc.pmap(burn, items[:100])
        ours, bare = interleave(
            options.rounds,
            lambda: timed(lambda: fc.pmap(burn, items)),
            lambda: _bare(context, loops, _BURNS // _WORKERS),
        )
    ratio = bare / ours
    measured = f"{ratio:5.3f} ({_BURNS / ours:.0f} over {_BURNS / bare:.0f} items/s)"
    what = f"{_BURNS:,} items of 1 ms on {_WORKERS} workers: throughput, over bare processes"
    yield Row(what, measured, "≥ 0.95", ratio >= 0.95)


def _bare(context: Any, loops: int, count: int) -> float:
    """Return how long bare processes compute, from the moment when all are ready to the end of the last."""
    barrier, times = context.Barrier(_WORKERS), context.SimpleQueue()
    processes = [context.Process(target=_loop, args=(barrier, times, loops, count)) for _ in range(_WORKERS)]
    for each in processes:
        each.start()
    spans = [times.get() for _ in processes]
    for each in processes:
        each.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _loop(barrier: Any, times: Any, loops: int, count: int) -> None:
    barrier.wait()
    start = clock()  # CLOCK_MONOTONIC, the same for all processes
    for _ in range(count):
        burn(loops)
    times.put((start, clock()))


# The schedule


def measure_schedule(options: Options) -> Iterator[Row]:
    """Yield what the master's decisions cost, simulated."""
    count, workers = 1_000_000, 10_000
    for what, seconds in (("1 ms", 1e-3), ("1 µs", 1e-6), ("1 s", 1.0)):
        results = [simulate(count, workers, seconds) for _ in range(max(1, options.rounds // 5))]
        spent = median(each[0] for each in results) / count
        yield Row(
            f"scheduler alone, {count:,} items of {what}, {workers:,} workers: an item",
            f"{duration(spent)}, ≤ {max(each[1] for each in results):,} in flight",
            "≤ 10 µs",
            spent <= 10e-6,
        )


def simulate(count: int, workers: int, seconds: float) -> tuple[float, int]:
    """Return the seconds that a schedule took for a map, and how many batches were in flight at most."""
    position = 0

    def draw(size: int) -> range:
        nonlocal position
        first, position = position, min(count, position + size)
        return range(first, position)

    schedule, generator = Schedule(draw, Policy(), count), random.Random(1)
    spent = -clock()
    for pid in range(2, workers + 2):
        schedule.joined(pid)
    spent += clock()
    events: list[tuple[float, int, int, float]] = []
    free_at, now, most = [0.0] * (workers + 2), 0.0, 0
    while True:
        spent -= clock()
        orders = list(iter(lambda: schedule.next(now), None))  # noqa: B023
        spent += clock()
        for order in orders:
            if isinstance(order, Recall):
                continue  # a worker that has begun all that it has
            batch = order.batch
            took = len(batch.items) * seconds * generator.uniform(0.5, 1.5)
            free_at[batch.pid] = max(now, free_at[batch.pid]) + took
            heapq.heappush(events, (free_at[batch.pid], batch.number, len(batch.items), took))
        most = max(most, schedule.in_flight)
        if schedule.finished:
            return spent, most
        now, number, done, took = heapq.heappop(events)
        spent -= clock()
        schedule.answered(number, done, took)
        spent += clock()


GROUPS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "noops": measure_noops,
    "tails": measure_tails,
    "burns": measure_burns,
    "schedule": measure_schedule,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="over which medians are taken (11)")
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=str([*GROUPS]))
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        _measure_peer_here(arguments.peer, arguments.rounds)
        return
    options = Options(5 if arguments.quick else arguments.rounds)
    processors, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {processors} processors, load average {load:.1f}")
    print(Row("what", "measured", "goal"))
    for group in arguments.only:
        for row in GROUPS[group](options):
            print(row, flush=True)


if __name__ == "__main__":
    main()
