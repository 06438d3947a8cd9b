"""How fast ``farcall.random`` is: ``python benchmarks/monte_carlo.py`` prints each loop's time beside that of C.

The C is ``monte_carlo.c``: the same generator with its state in a local struct, compiled by gcc with -O3, once for any
processor and once for this one; the faster of the two counts. The results of C and of Numba are compared to the last
bit before anything is timed. Loops take turns; the median over the rounds counts.
"""

import argparse
import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from baselines import clock, interleave
from generator import set_tables
from numba import njit
from report import Row, at_most, run

from farcall.random import rand, randbool, randint, randn, reseed, xoshiro

_SEED, _TASK = 2018, 7
_FLAGS = (), ("-march=native",)
_EXACT = "-ffp-contract=off"  # a fused multiply-add rounds once where Numba rounds twice
_GOAL = 1.05


class Options(NamedTuple):
    """How much to measure."""

    rounds: int
    draws: int


# The loops, with the names that they have in C


@njit
def pi(n, rng):
    inside = 0
    for _ in range(n):
        x = rand(rng)
        y = rand(rng)
        inside += x * x + y * y < 1.0
    return inside


@njit
def coins(n, rng):
    heads = 0
    for _ in range(n):
        heads += randbool(rng)
    return heads


@njit
def halves(n, rng):
    heads = 0
    for _ in range(n):
        heads += rand(rng) < 0.5
    return heads


@njit
def uniforms(n, rng):
    total = 0.0
    for _ in range(n):
        total += rand(rng)
    return total


@njit
def normals(n, rng):
    total = 0.0
    for _ in range(n):
        total += randn(rng)
    return total


@njit
def dice(n, rng):
    total = 0
    for _ in range(n):
        total += randint(rng, 1, 7)
    return total


@njit
def array(n, rng):
    """As far as the compiler knows the state is in the array too, so it stays in memory."""
    numbers = np.zeros(4096)
    for i in range(n):
        numbers[i & 4095] = rand(rng)
    total = 0.0
    for each in numbers:
        total += each
    return total


@njit
def firsts(n, rng):
    total = 0.0
    for task in range(n):
        reseed(rng, _SEED, task)
        total += rand(rng)
    return total


LOOPS = {
    "Monte Carlo π": (pi, _GOAL),
    "coin flips, randbool": (coins, _GOAL),
    "coin flips, rand < 0.5": (halves, _GOAL),
    "sum of rand": (uniforms, None),
    "sum of randn": (normals, None),
    "sum of randint(1, 7)": (dice, None),
    "rand into an array": (array, None),
}


# π with what else there is


@njit
def pi_numpy(n):
    inside = 0
    for _ in range(n):
        x = np.random.random()
        y = np.random.random()
        inside += x * x + y * y < 1.0
    return inside


@njit
def pi_generator(n, rng):
    inside = 0
    for _ in range(n):
        x = rng.random()
        y = rng.random()
        inside += x * x + y * y < 1.0
    return inside


@njit
def coins_numpy(n):
    heads = 0
    for _ in range(n):
        heads += np.random.random() < 0.5
    return heads


@njit
def normals_generator(n, rng):
    total = 0.0
    for _ in range(n):
        total += rng.standard_normal()
    return total


# C


def compile_c(directory: Path) -> list[ctypes.CDLL]:
    """Return the loops in C, once for each set of flags, with the ziggurat's tables set."""
    libraries = []
    source = Path(__file__).with_suffix(".c")
    for number, flags in enumerate(_FLAGS):
        path = directory / f"monte_carlo{number}.so"
        command = ["gcc", "-O3", _EXACT, *flags, "-shared", "-fPIC", str(source), "-o", str(path), "-lm"]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
        set_tables(library)
        libraries.append(library)
    return libraries


def in_c(library: ctypes.CDLL, name: str) -> Callable[[int, Any], float]:
    """Return a loop in C as a function of the count and the state."""
    loop = getattr(library, name)
    loop.restype = ctypes.c_double
    return lambda n, rng: loop(ctypes.c_int64(n), rng.ctypes.data_as(ctypes.c_void_p))


def check_seeds(library: ctypes.CDLL) -> None:
    """Compare the seeding."""
    for seed, task in ((0, 0), (_SEED, _TASK), (2**64 - 1, 2**64 - 1)):
        state = np.empty(4, np.uint64)
        library.seed_state(state.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(seed), ctypes.c_uint64(task))
        if not np.array_equal(state, xoshiro(seed, task)):
            raise SystemExit(f"seed {seed}, task {task}: C begins with another state")


def check_loop(name: str, *loops: Callable[[int, Any], float]) -> None:
    """Compare what loops return and the state that they leave."""
    for count in (0, 1, 1000, 3_000_001):
        states = [xoshiro(_SEED, _TASK) for _ in loops]
        values = [float(loop(count, state)) for loop, state in zip(loops, states, strict=True)]
        if len(set(values)) > 1 or any((states[0] != each).any() for each in states):
            raise SystemExit(f"{name}, {count} times: {values}, and the states {states}")


# Rows


def timed(loop: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that a loop takes."""
    started = clock()
    loop(*arguments)
    return clock() - started


def measure_loops(options: Options) -> Iterator[Row]:
    """Yield each loop over the same one in C."""
    count = options.draws
    with tempfile.TemporaryDirectory(prefix="farcall-") as directory:
        libraries = compile_c(Path(directory))
        check_seeds(libraries[0])
        for what, (loop, goal) in LOOPS.items():
            subjects = [loop, *(in_c(each, loop.__name__) for each in libraries)]
            check_loop(what, *subjects)
            ours, *others = interleave(
                options.rounds,
                *[lambda each=each: timed(each, count, xoshiro(_SEED, _TASK)) for each in subjects],
            )
            yield at_most(f"{what}, {count:,} times, over C", ours, min(others), goal)


def measure_others(options: Options) -> Iterator[Row]:
    """Yield what else a compiled loop can draw from, over farcall.random."""
    count = options.draws // 4
    generator = np.random.Generator(np.random.PCG64(_SEED))
    for warm in (pi_numpy, coins_numpy):
        warm(1)
    for warm in (pi_generator, normals_generator):
        warm(1, generator)
    for what, loop, arguments, ours in (
        ("Monte Carlo π, np.random.random, compiled, over rand", pi_numpy, (), pi),
        ("Monte Carlo π, Generator(PCG64).random, compiled, over rand", pi_generator, (generator,), pi),
        ("coin flips, np.random.random() < 0.5, compiled, over randbool", coins_numpy, (), coins),
        ("Generator(PCG64).standard_normal, compiled, over randn", normals_generator, (generator,), normals),
    ):
        theirs, own = interleave(
            options.rounds,
            lambda loop=loop, arguments=arguments: timed(loop, count, *arguments),
            lambda ours=ours: timed(ours, count, xoshiro(_SEED, _TASK)),
        )
        yield at_most(what, theirs, own)
    numpy, own = interleave(
        options.rounds, lambda: timed(generator.random, count), lambda: timed(uniforms, count, xoshiro(_SEED, _TASK))
    )
    yield at_most("Generator(PCG64).random(n), an array by NumPy, over a sum of rand", numpy, own)


def measure_seeds(options: Options) -> Iterator[Row]:
    """Yield what a stream costs."""
    count, rng = 100_000, xoshiro(_SEED)
    firsts(1, rng)
    (own,) = interleave(options.rounds, lambda: timed(firsts, count, rng))
    yield Row(f"reseed and one rand, {count:,} tasks", f"{own / count * 1e9:.1f} ns each")


def measure(options: Options) -> Iterator[Row]:
    """Yield everything."""
    yield from measure_loops(options)
    yield from measure_others(options)
    yield from measure_seeds(options)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="over which medians are taken (11)")
    parser.add_argument("--quick", action="store_true", help="7 rounds, and 5 million draws instead of 20 million")
    arguments = parser.parse_args()
    options = Options(7, 5_000_000) if arguments.quick else Options(arguments.rounds, 20_000_000)
    run(measure(options))


if __name__ == "__main__":
    main()
