"""How much faster more workers are: ``python benchmarks/speedup.py`` is Figure 5 of the document that began farcall.

There, Monte Carlo π ran on up to 20 workers in 10 pods of a Kubernetes cluster. Here, it runs on up to 20 workers on 10
hosts: network namespaces of this machine, each with sshd, on which ``addprocs`` starts two workers by SSH. The map is
one ``pmap`` over pieces of equal size. N workers are the first ones of N hosts, and from the eleventh on the second
ones.

So many do not have a processor each here, so all of them are held to so small a share of one that together they need
half of what this machine gives, which is measured first. Two clusters are built so: one where each worker has its share
for itself, as on 10 hosts with two slow processors each; and one where the two workers of a host have a share together,
as on 10 hosts with one slow processor each, which is what the document had.

The baseline is a process with such a share that runs the same loop all the time, without farcall. What it does in the
seconds of a map says what the share of a worker allows in these seconds, whatever else this machine does. The waiting
for a message is free for a worker that has had its share of the moment; the processor time that it takes is not, about
a millisecond with caches that others have used meanwhile, so a piece is 30 times that. The loop lets go of the GIL:
threads that wait for it wake up every 5 ms to say so.

Needs root, and the programs that ``tests/hosts.py`` uses.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from baselines import clock, mean_time
from network import Hosts, cpu_groups, missing, set_quota
from numba import njit
from report import Row, duration, run

import farcall as fc
from farcall.plots import BLUE, GREY, LIGHT_BLUE, ORANGE, STYLE, unframe
from farcall.random import rand, xoshiro

_HOSTS = 10
_WORKERS = 20
_SIZES = 1_200_000_000, 3_600_000_000
_PIECE = 10_000_000  # points; 35 ms of a processor, about
_SHARE = 0.05  # of a processor, or less if the machine gives less than two
_STEP = 100_000  # points after which the baseline counts
_LONGEST = 1_200_000_000  # points for one slow processor, which take it a minute or two
_SEED = 2018
_GOAL = 0.95
_LARGE = 10  # workers, from which on there is a goal, for the most points
_DOCUMENT = 13.9  # times as fast as one worker, on 20 of them, which shared 10 processors

BLUES = LIGHT_BLUE, BLUE


@njit(nogil=True)
def hits(n, task):
    """How many of n random points of the unit square lie in the quarter circle."""
    rng = xoshiro(_SEED, task)
    inside = 0
    for _ in range(n):
        x = rand(rng)
        y = rand(rng)
        inside += x * x + y * y < 1.0
    return inside


class Layout(NamedTuple):
    """Who shares a slow processor, and how many workers take part."""

    title: str
    shared_by: int  # workers
    counts: tuple[int, ...]

    def limit(self, count: int) -> int:
        """Return how many processes without farcall so many workers can be worth."""
        return min(count, _WORKERS // self.shared_by)

    def counts_for(self, size: int) -> list[int]:
        """Return with how many workers so many points are done soon enough."""
        return [count for count in self.counts if size / self.limit(count) <= _LONGEST]


LAYOUTS = [
    Layout("a processor for each worker", 1, (1, 2, 4, 10, 15, 20)),
    Layout("a processor for the two workers of a host", 2, (5, 10, 20)),
]


class Run(NamedTuple):
    """One map: its seconds, and how many processes without farcall do as much in as many seconds."""

    seconds: float
    worth: float


Runs = dict[tuple[str, int, int], list[Run]]  # by layout, size and number of workers


# What there is


def here() -> tuple[str, int]:
    """Return the host, and the number of this process there."""
    return socket.gethostname(), os.getpid()


def _spin(ready: Any, share: Any) -> None:
    ready.wait()
    started, used = clock(), os.times().user
    while clock() - started < 1.0:
        pass
    with share:
        share.value += (os.times().user - used) / (clock() - started)


def processors_given(name: str) -> float:
    """Return how many processors' time this machine gives to programs that take all that they get."""
    context = multiprocessing.get_context("spawn")
    ready, share, count = context.Event(), context.Value("d", 0.0), len(os.sched_getaffinity(0))
    programs = [context.Process(target=_spin, args=(ready, share)) for _ in range(count)]
    for each in programs:
        each.start()
    with held(f"{name}-given", count, [each.pid for each in programs]):
        ready.set()
        for each in programs:
            each.join()
    return float(share.value)


@contextlib.contextmanager
def held(name: str, share: float, processes: Iterable[int]) -> Iterator[None]:
    """Hold processes to a share of one processor together, in the block, and have them get it before others do."""
    groups = cpu_groups()
    assert groups is not None
    group = groups / name
    group.mkdir()
    try:
        set_quota(group, share)
        if (group / "cpu.weight").exists():
            (group / "cpu.weight").write_text("2000")  # of one program: 100
        else:
            (group / "cpu.shares").write_text("20480")  # of one program: 1024
        for process in processes:
            (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        for process in (group / "cgroup.procs").read_text().split():
            (groups / "cgroup.procs").write_text(process)
        group.rmdir()


class Reference:
    """A process that runs the loop all the time, without farcall."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._done = context.Value("q", 0)
        self.process = context.Process(target=_run_on, args=(self._done,), daemon=True)
        self.process.start()
        while not self.done():
            self.process.join(0.01)

    def done(self) -> int:
        """Return how many points it has done."""
        return int(self._done.value)


def _run_on(done: Any) -> None:
    hits(1, 0)
    parent = os.getppid()
    while os.getppid() == parent:
        hits(_STEP, 0)
        done.value += _STEP


class Cluster(NamedTuple):
    """The workers, in the order in which they take part, and the processes that they are on this machine."""

    name: str
    workers: list[int]
    processes: dict[int, int]
    reference: Reference

    @contextlib.contextmanager
    def laid_out(self, layout: Layout, share: float) -> Iterator[None]:
        """Give each group of workers that share a processor its share of one, and the reference its own."""
        processors = _WORKERS // layout.shared_by
        with contextlib.ExitStack() as stack:
            for number in range(processors):
                mine = [self.processes[worker] for worker in self.workers[number::processors]]
                stack.enter_context(held(f"{self.name}-{number}", share, mine))
            stack.enter_context(held(f"{self.name}-reference", share, [self.reference.process.pid]))
            yield

    def measure(self, count: int, size: int) -> Run:
        """Run a map on the first so many workers."""
        pieces, pool = size // _PIECE, fc.WorkerPool(self.workers[:count])
        done, started = self.reference.done(), clock()
        found = sum(fc.pmap(hits, [_PIECE] * pieces, range(pieces), pool=pool))
        seconds, alone = clock() - started, self.reference.done() - done
        assert abs(4 * found / size - math.pi) < 10 / math.sqrt(size)
        return Run(seconds, size / alone)


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """Start hosts and workers, and have them do everything once."""
    with Hosts(_HOSTS) as hosts:
        begun = clock()
        with fc.addprocs([(each.name, 2) for each in hosts], ssh_options={"-F": str(hosts.ssh_config)}) as workers:
            print(f"{_WORKERS} workers on {_HOSTS} hosts, added by SSH in {duration(clock() - begun)}")
            places = {worker: fc.remotecall_fetch(worker, here) for worker in workers}
            numbers = {
                (host.name, inside): outside for host in hosts for outside, inside, _ in host.namespaces.processes()
            }
            of_hosts = [[worker for worker in workers if places[worker][0] == host.name] for host in hosts]
            ordered = [worker for together in zip(*of_hosts, strict=True) for worker in together]
            mean_time(lambda: fc.pmap(hits, [1] * 1000, range(1000)), 3)
            processes = {worker: numbers[place] for worker, place in places.items()}
            yield Cluster(hosts.folder.name, ordered, processes, Reference())


# Measuring


def measure(options: argparse.Namespace, runs: Runs) -> Iterator[Row]:
    """Take all runs in turns, and yield a row for each kind."""
    with started() as cluster:
        given = processors_given(cluster.name)
        share = min(_SHARE, given / 2 / _WORKERS)
        yield Row("processors that this machine gives to as many busy programs as it has", f"{given:5.2f}")
        yield Row("what a slow processor is of one", f"{share:5.3f}")
        for _ in range(options.rounds):
            for layout in LAYOUTS:
                with cluster.laid_out(layout, share):
                    for size in options.sizes:
                        for count in layout.counts_for(size):
                            runs.setdefault((layout.title, size, count), []).append(cluster.measure(count, size))
    for layout in LAYOUTS:
        for size in options.sizes:
            yield Row(f"{size:,} points, {layout.title}", "times a process without farcall")
            for count in layout.counts_for(size):
                is_judged = count >= _LARGE and size == max(options.sizes)
                yield _row(layout, count, runs[layout.title, size, count], is_judged)


def _row(layout: Layout, count: int, runs: list[Run], is_judged: bool) -> Row:
    worth, limit = median(each.worth for each in runs), layout.limit(count)
    measured = f"{worth:5.2f} ({duration(median(each.seconds for each in runs))}), {worth / limit:.3f} of {limit}"
    if not is_judged:
        return Row(f"  {count} workers", measured)
    return Row(f"  {count} workers", measured, f"≥ {_GOAL}", worth / limit >= _GOAL)


# The figure


def draw(options: argparse.Namespace, runs: Runs) -> None:
    """Write the figure, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    figure, both = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained", sharey=True)
    for axes, layout in zip(both, LAYOUTS, strict=True):
        every = range(_WORKERS + 1)
        axes.plot(every, [layout.limit(count) for count in every], "--", color=GREY, label="what the shares allow")
        for size, colour in zip(options.sizes, BLUES, strict=False):
            counts = layout.counts_for(size)
            values = [median(each.worth for each in runs[layout.title, size, count]) for count in counts]
            axes.plot(counts, values, "-o", color=colour, label=f"{size:,} points")
        axes.set(title=layout.title.capitalize(), xlabel="workers on 10 hosts", xlim=(0, 21), ylim=(0, 21))
        axes.set(xticks=range(0, 21, 4), yticks=range(0, 21, 4))
        unframe(axes)
    both[0].set_ylabel("times a process without farcall")
    both[1].plot(_WORKERS, _DOCUMENT, "*", color=ORANGE, markersize=14, label="the document: times its one worker")
    for axes in both:
        axes.legend(loc="upper left")
    figure.savefig(options.figure, dpi=160)
    print(f"The figure is in {options.figure}")


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="over which medians are taken (3)")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES, help="numbers of points")
    parser.add_argument("--figure", type=Path, default=Path(__file__).parents[1] / "docs" / "speedup.png")
    options = parser.parse_args()
    lacking = missing() or ("" if cpu_groups() else "control groups for processors")
    if lacking:
        sys.exit(f"hosts on this machine, with a share of a processor each, need {lacking}")
    runs: Runs = {}
    run(measure(options, runs))
    draw(options, runs)


if __name__ == "__main__":
    main()
