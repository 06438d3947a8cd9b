"""Monte Carlo π on 1, 2, 4, … and all workers: how much faster do more workers make it?

    farcall run -p 2 examples/pi.py [samples] [figure.png]

Throw points into the unit square; the share that falls into the quarter circle is π/4. The work is cut into pieces,
each with a seed of its own, so the answer does not depend on who does which piece: it is the same on any number of
workers. Every number of workers is timed three times, in turns, and the best time counts.
"""

import math
import os
import sys
import time

import farcall as fc
from farcall.plots import BLUE, GREY, INK, ORANGE, STYLE, unframe

try:
    import numpy as np
    from numba import njit
except ImportError as error:
    sys.exit(f"{error}: this example needs NumPy and Numba; install them with: pip install 'farcall[all]'")

SAMPLES = 240_000_000
PIECES = 240  # many more than workers, so that all of them finish together
ROUNDS = 3


@njit
def hits(n, seed):
    """How many of n random points of the unit square lie in the quarter circle."""
    np.random.seed(seed)
    inside = 0
    for _ in range(n):
        x = np.random.random()
        y = np.random.random()
        inside += x * x + y * y <= 1.0
    return inside


def compile_on_workers():
    """Call the kernel once everywhere, so that no timed call compiles."""
    for future in [fc.spawnat(pid, hits, 1, 0) for pid in fc.workers()]:
        fc.fetch(future)


def count_hits(samples, workers):
    """Share the pieces out among the workers: one at a time to each, the next to whoever is free first."""
    pool = fc.WorkerPool(workers)
    seeds = np.random.SeedSequence(2018).generate_state(PIECES)
    futures = [fc.spawnat(pool, hits, samples // PIECES, int(seed)) for seed in seeds]
    return sum(fc.fetch(future) for future in futures)


def measure(samples, counts):
    """Return, for each number of workers, the hits and the seconds of each round."""
    workers = fc.workers()
    seconds = {count: [] for count in counts}
    found = {}
    for _ in range(ROUNDS):
        for count in counts:
            started = time.perf_counter()
            found[count] = count_hits(samples, workers[:count])
            seconds[count].append(time.perf_counter() - started)
    return found, seconds


def report(samples, found, seconds):
    """Print a line for each number of workers."""
    print(f"{'workers':>7}  {'π':>12}  {'error':>9}  {'seconds':>8}  {'speed-up':>8}")
    alone = min(seconds[1])
    for count, times in seconds.items():
        pi = 4 * found[count] / samples
        print(
            f"{count:7}  {pi:12.8f}  {abs(pi - math.pi):9.1e}  {min(times):8.3f}  {alone / min(times):8.2f}", flush=True
        )
    expected = 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / samples)
    print(f"The expected error of {samples:,} samples is {expected:.1e} (one standard deviation).")


def draw(samples, found, seconds, path):
    """Write the figure: what is computed, and the speed-up over the number of workers."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("No figure: matplotlib is missing; install it with: pip install 'farcall[plot]'")
        return
    plt.rcParams.update(STYLE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 5), layout="constrained")
    draw_points(left)
    draw_speed_up(right, seconds)
    pi = 4 * found[1] / samples
    cores = len(os.sched_getaffinity(0))
    left.set_title(f"π ≈ {pi:.6f} from {samples:,} points")
    right.set_title(f"Speed-up on {cores} cores, best of {ROUNDS} rounds")
    figure.savefig(path, dpi=160)
    print(f"The figure is in {path}")


def draw_points(axes):
    x, y = np.random.default_rng(2018).random((2, 4000))
    inside = x * x + y * y <= 1
    axes.scatter(x[inside], y[inside], s=5, color=BLUE, linewidths=0)
    axes.scatter(x[~inside], y[~inside], s=5, color=ORANGE, linewidths=0)
    angle = np.linspace(0, math.pi / 2, 200)
    axes.plot(np.cos(angle), np.sin(angle), color=INK, linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 1), yticks=(0, 1))
    axes.set_xlabel("4,000 of them: π/4 is the share in the quarter circle")


def draw_speed_up(axes, seconds):
    counts, most, alone = list(seconds), max(seconds), min(seconds[1])
    best = [alone / min(seconds[count]) for count in counts]
    others = [(count, alone / each) for count in counts for each in sorted(seconds[count])[1:]]
    axes.plot([0, most], [0, most], "--", color=GREY, linewidth=1.5, label="ideal: n workers, n times as fast")
    axes.plot(*zip(*others, strict=True), "o", color=BLUE, alpha=0.3, markersize=5, label="the slower rounds")
    axes.plot(counts, best, "-o", color=BLUE, linewidth=2.5, markersize=9, label="measured")
    for count, speed in zip(counts, best, strict=True):
        if 8 * count > most:  # labels nearer to the origin would lie on each other
            place = {"xytext": (10, -13), "textcoords": "offset points"}
            axes.annotate(f"{speed:.2f}×", (count, speed), **place, color=BLUE, weight="bold")
    end = 1.2 * most
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal", xticks=counts, yticks=counts)
    axes.set(xlabel="workers", ylabel="speed-up over one worker")
    unframe(axes)
    axes.legend(loc="upper left")


def main():
    samples = int(float(sys.argv[1])) if len(sys.argv) > 1 else SAMPLES
    path = sys.argv[2] if len(sys.argv) > 2 else "speedup.png"
    samples = max(1, samples // PIECES) * PIECES
    if fc.nprocs() == 1:
        fc.addprocs()  # not under "farcall run -p": one worker per core
    started = time.perf_counter()
    compile_on_workers()
    most = fc.nworkers()
    plural = "s" if most > 1 else ""
    print(f"Compiled on {most} worker{plural} in {time.perf_counter() - started:.1f} s.", flush=True)
    counts = sorted({*(2**power for power in range(most.bit_length())), most})
    found, seconds = measure(samples, counts)
    report(samples, found, seconds)
    draw(samples, found, seconds, path)


if __name__ == "__main__":
    main()
