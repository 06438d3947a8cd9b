"""How good calls are: ``python benchmarks/calls.py`` prints each quantity, its goal, and whether that is met.

Times are given as a ratio to a baseline that is measured in the same run: the two take turns, and each counts with
its median over the rounds. ``--only`` chooses among the groups below, ``--quick`` does everything in fewer rounds.
"""

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from baselines import (
    RawEcho,
    activity,
    clock,
    interleave,
    mean_time,
    measured_by,
    placed,
    private_memory,
    resident_memory,
    running,
    time_of,
)
from peers import CALLS, IN_FLIGHT, MESSAGE, PEERS, Caller, installed, many, measure
from report import Row, at_most, bandwidth, duration, run

import farcall as fc
from farcall._cluster import master

_LARGE = 10_000_000  # float64s: 80 MB
_READ_ONLY = 12_500_000  # 100 MB
_IDLE = 3.0  # seconds for which an idle cluster is watched
_SETTLE = 1.0  # seconds after which a cluster without calls is idle


class Options(NamedTuple):
    """How much to measure."""

    rounds: int
    calls: int  # of the memory test


# Latency


def noop() -> None:
    """Do nothing."""


def measure_calls(options: Options) -> Iterator[Row]:
    """Yield what one call takes, over a raw echo of as many bytes, with the processes in three placements.

    The goals are for a master and a worker that have a core each. Where the system is free to choose, it puts the
    echo now on two cores and now on one, where waking a process takes a seventh of the time; farcall, too, is
    printed for both, and nothing of it is hidden in a median over placements.
    """
    processors = sorted(os.sched_getaffinity(0))
    with fc.addprocs(1) as [worker], RawEcho(MESSAGE) as echo:
        mean_time(partial(fc.remotecall_fetch, worker, noop), 500)
        here, others = os.getpid(), [fc.remotecall_fetch(worker, os.getpid), echo.process.pid]
        if len(processors) > 1:
            with placed((here, {processors[0]}), *[(each, {processors[1]}) for each in others]):
                yield from _rows_of_calls(options, worker, echo, "on two cores", goals=True)
            yield from _rows_of_calls(options, worker, echo, "placed by the system", goals=False)
        with placed(*[(each, {processors[0]}) for each in (here, *others)]):
            yield from _rows_of_calls(options, worker, echo, "on one core", goals=len(processors) == 1)


def _rows_of_calls(options: Options, worker: int, echo: RawEcho, where: str, *, goals: bool) -> Iterator[Row]:
    caller = Caller(
        partial(fc.remotecall_fetch, worker, noop),
        lambda: fc.spawnat(worker, noop).result,
    )
    raw, *subjects = interleave(
        options.rounds,
        lambda: mean_time(echo, 1000),
        lambda: mean_time(caller.call, 1000),
        lambda: mean_time(lambda: fc.fetch(fc.spawnat(worker, noop)), 1000),
        lambda: many(caller, IN_FLIGHT),
    )
    names = "remotecall_fetch of a no-op", "fetch(spawnat(…)) of a no-op", f"one of {IN_FLIGHT} no-ops in flight"
    for name, subject, goal in zip(names, subjects, (1.1, 1.4, 0.5), strict=True):
        yield at_most(f"{name}, over a raw echo, {where}", subject, raw, goal if goals else None)


def make_closures(data: Any) -> dict[str, Callable[[Any], Any]]:
    """Return functions that go by value, with what they capture."""
    few = [1, 2, 3]
    return {
        "a function of the program": lambda x: x,
        "a function that captures a list": lambda x: x + len(few),
        "a function that captures an array": lambda x: data + x,
        "a partial": partial(pow, 2),
        "a method of an object": Scale(2).apply,
    }


class Scale:
    """An object with state, of a class of the program."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def apply(self, x: float) -> float:
        """Return x times the factor."""
        return self.factor * x


def measure_kinds(options: Options) -> Iterator[Row]:
    """Yield what calls of other functions take, and of other values, over a call of ``abs`` with a number."""
    numbers = np.arange(10.0)
    calls: dict[str, tuple[Callable[..., Any], Any]] = {"abs": (abs, -1)}
    calls |= {name: (function, 3) for name, function in make_closures(numbers).items()}
    calls |= {
        "np.sum of 10 numbers": (np.sum, numbers),
        "np.sqrt of 10 numbers": (np.sqrt, numbers),
        "len of a dict of 10": (len, {str(each): each for each in range(10)}),
        "str.upper": (str.upper, "text"),
    }
    with fc.addprocs(1) as [worker]:
        actions = {name: partial(fc.remotecall_fetch, worker, *call) for name, call in calls.items()}
        for each in actions.values():
            mean_time(each, 500)  # the first ones import NumPy, and the worker learns how long each takes
        first, *others = interleave(options.rounds, *(partial(mean_time, each, 500) for each in actions.values()))
    for name, seconds in zip(list(calls)[1:], others, strict=True):
        yield at_most(f"remotecall_fetch of {name}, over abs", seconds, first)


# Arrays


def take(array: Any) -> int:
    """Return the size of an array, which is not read."""
    return int(array.size)


def total(array: Any) -> float:
    """Return the sum of an array, for which all of it is read."""
    return float(array.sum())


def give() -> Any:
    """Return an array that the worker has."""
    return sys.modules["__main__"].__dict__["benchmark_array"]


def measure_arrays(options: Options) -> Iterator[Row]:
    """Yield how quickly large arrays go, and how often they are copied on their way to many."""
    array, target = np.random.default_rng(1).random(_LARGE), np.zeros(_LARGE)
    with fc.addprocs(1) as [worker]:
        fc.everywhere(f"import numpy; benchmark_array = numpy.random.default_rng(1).random({_LARGE})", pids=[worker])
        assert fc.remotecall_fetch(worker, total, array) == array.sum() == fc.remotecall_fetch(worker, give).sum()
        copy, taken, read, given, given_and_read, reading = interleave(
            options.rounds,
            lambda: mean_time(lambda: np.copyto(target, array), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(worker, take, array), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(worker, total, array), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(worker, give), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(worker, give).sum(), 3),
            lambda: mean_time(array.sum, 3),
        )
    size = array.nbytes
    yield bandwidth("80 MB array as argument, delivered; bytes/s over memcpy", size, taken, copy, 0.5)
    yield bandwidth("  delivered and read (sum); over memcpy", size, read, copy)
    yield bandwidth("  delivered and read (sum); over memcpy and sum", size, read, copy + reading)
    yield bandwidth("80 MB array as result, delivered; bytes/s over memcpy", size, given, copy, 0.5)
    yield bandwidth("  delivered and read (sum); over memcpy", size, given_and_read, copy)
    yield bandwidth("  delivered and read (sum); over memcpy and sum", size, given_and_read, copy + reading)
    yield _copies_to_many(8)


def _copies_to_many(count: int) -> Row:
    """Return the row of a read-only array that goes to many workers, which hold it at the same time."""
    array = np.random.default_rng(2).random(_READ_ONLY)
    array.flags.writeable = False
    with fc.addprocs(count) as workers:
        segments = master().node.segments
        before, started = segments.copies, clock()
        totals = [fc.spawnat(worker, total, array) for worker in workers]
        assert [fc.fetch(each) for each in totals] == [array.sum()] * count
        elapsed, copies = clock() - started, segments.copies - before
    return Row(
        f"100 MB read-only array to {count} workers that read it: copies made",
        f"{copies:5d} ({duration(elapsed)})",
        "1",
        copies == 1,
    )


# Start


_ADDPROCS = """
import time
import farcall
started = time.perf_counter()
for future in [farcall.spawnat(worker, int) for worker in farcall.addprocs(2)]:
    farcall.fetch(future)
print(time.perf_counter() - started)
"""
_IMPORT = "import time; started = time.perf_counter(); import {}; print(time.perf_counter() - started)"


def measure_starts(options: Options) -> Iterator[Row]:
    """Yield how long a cluster and the package itself take to be there."""
    time_of("import farcall, numpy")  # compiles what an editor has changed
    measured_by(_ADDPROCS)
    added, numpy = interleave(options.rounds, lambda: measured_by(_ADDPROCS), lambda: time_of("import numpy"))
    yield at_most('addprocs(2) until both answer, over python -c "import numpy"', added, numpy, 2.5)
    ours, asyncio = interleave(
        options.rounds + 2,  # these are short, and disturbed by much
        lambda: measured_by(_IMPORT.format("farcall")),
        lambda: measured_by(_IMPORT.format("asyncio")),
    )
    yield at_most("import farcall, over import asyncio", ours, asyncio, 2.0)


# Memory


_CLUSTER = """
import os, sys
import farcall
workers = farcall.addprocs(2)
for number in range(1000):
    for worker in workers:
        farcall.remotecall_fetch(worker, abs, number)
        farcall.fetch(farcall.spawnat(worker, abs, number))
print(*[farcall.remotecall_fetch(worker, os.getpid) for worker in workers], flush=True)
sys.stdin.readline()
"""
_BARE = "print(flush=True); input()"


def measure_idle(_options: Options) -> Iterator[Row]:
    """Yield what a cluster takes that has made some calls and now makes none."""
    with running(_BARE) as (bare, _), running(_CLUSTER) as (boss, line):
        workers = [int(word) for word in line.split()]
        time.sleep(_SETTLE)
        memory, baseline = max(private_memory(each) for each in workers), private_memory(bare)
        yield Row(
            "private memory of an idle worker, over a bare interpreter's",
            f"{(memory - baseline) / 1e6:+5.1f} MB ({memory / 1e6:.1f} over {baseline / 1e6:.1f} MB)",
            "≤ 15 MB more",
            memory - baseline <= 15e6,
        )
        everybody = [boss, *workers]
        before = activity(everybody)
        time.sleep(_IDLE)
        after = activity(everybody)
    seconds, switches = after.seconds - before.seconds, after.switches - before.switches
    yield Row(
        f"an idle cluster's processor time in {_IDLE:g} s, master and 2 workers",
        f"{seconds * 1e3:5.2f} ms ({switches} context switches)",
        "0",
        seconds < 1e-4,
    )


def measure_growth(options: Options) -> Iterator[Row]:
    """Yield by how much many calls make the processes grow, once a tenth of them is through."""
    with fc.addprocs(1) as [worker]:
        both = os.getpid(), fc.remotecall_fetch(worker, os.getpid)
        sizes = []
        for count in (options.calls // 10, options.calls - options.calls // 10):
            _make_calls(worker, count)
            gc.collect()
            fc.remotecall_fetch(worker, gc.collect)
            time.sleep(_SETTLE)
            sizes.append([resident_memory(each) for each in both])
    growth = [after - before for before, after in zip(*sizes, strict=True)]
    yield Row(
        f"growth from call {options.calls // 10:,} to call {options.calls:,}, master and worker",
        " and ".join(f"{each / 1e3:+.0f} kB" for each in growth),
        "none",
        max(growth) < max(options.calls, 256_000),  # less than a byte a call: the allocator's own ups and downs
    )


def _make_calls(worker: int, count: int) -> None:
    """Make calls in three ways, a third of them each."""
    for number in range(count // 30):
        for _ in range(10):
            fc.remotecall_fetch(worker, abs, number)
            fc.fetch(fc.spawnat(worker, abs, number))
        for future in [fc.spawnat(worker, abs, number) for _ in range(10)]:
            fc.fetch(future)


# Others


def measure_peers(options: Options) -> Iterator[Row]:
    """Yield the same calls made by other libraries, each in a process of its own."""
    for name in installed(CALLS):
        title = PEERS[name].title
        try:
            times = measure(name, max(3, options.rounds // 3))
        except RuntimeError as error:
            yield Row(title, f"failed: {error}")
            continue
        yield at_most(f"{title}: one no-op call, over a raw echo on two cores", times.call, times.echo)
        yield at_most(f"{title}: one of {IN_FLIGHT} no-ops in flight", times.in_flight, times.echo)


GROUPS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "calls": measure_calls,
    "kinds": measure_kinds,
    "arrays": measure_arrays,
    "starts": measure_starts,
    "idle": measure_idle,
    "growth": measure_growth,
    "peers": measure_peers,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="over which medians are taken (15)")
    parser.add_argument("--quick", action="store_true", help="5 rounds, and 100,000 calls instead of a million")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=str([*GROUPS]))
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # fresh interpreters would compile farcall, and not asyncio
    options = Options(5, 100_000) if arguments.quick else Options(arguments.rounds, 1_000_000)
    run(group for name in arguments.only for group in GROUPS[name](options))


if __name__ == "__main__":
    main()
