"""How fast C, Numba, Python and Julia are: ``python -m micro``, in ``benchmarks/``, prints a table and draws a figure.

The versions run in turns; the least time of each counts, as in the original, because all that disturbs a program makes
it slower. Every answer is checked, and C and Numba must give the same ones. Julia takes part where ``julia`` is found,
or where the environment variable ``JULIA`` holds the command that starts it.
"""

import argparse
import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
from report import Row, at_most

from . import compiled, figure, julia, native, plain
from .measure import Here, Measured, Version, check_file, measure
from .tasks import GOAL_OF_MEAN, TASKS, Task, WrongAnswer


@contextlib.contextmanager
def all_versions() -> Iterator[dict[str, Version]]:
    """Compile and start what there is."""
    with tempfile.TemporaryDirectory(prefix="farcall-") as directory, contextlib.ExitStack() as stack:
        versions: dict[str, Version] = {"C": Here(native.Native(directory)), "Numba": Here(compiled)}
        versions["CPython"] = Here(plain)
        print(f"{native.compiler()}, {' '.join(native.FLAGS)}; NumPy {np.__version__}; Numba {numba.__version__}")
        if words := julia.command():
            versions["Julia"] = process = julia.Julia(words)
            stack.callback(process.close)
            print(process.version)
        yield versions


def print_table(measured: Measured, tasks: list[Task]) -> None:
    """Print the times as multiples of C's, and what Numba's compiler takes."""
    heads = [f"{each:>9}" for each in measured.languages]
    print(f"\n{'least time, over C':<22}{'C, ms':>9}{''.join(heads)}{'Numba, first call, ms':>25}")
    for task in tasks:
        ratios = [f"{measured.ratio(task, each):9.2f}" for each in measured.languages]
        first = measured.records[task.name, "Numba"].first
        print(f"{task.name:<22}{measured.best(task, 'C') * 1e3:9.4f}{''.join(ratios)}{first * 1e3:25.0f}")
    means = [f"{measured.mean(tasks, each):9.2f}" for each in measured.languages]
    print(f"{'geometric mean':<31}{''.join(means)}\n")


def verdicts(measured: Measured, tasks: list[Task]) -> Iterator[Row]:
    """Yield whether Numba is as near to C as it should be."""
    for task in tasks:
        yield at_most(f"{task.name}: Numba over C", measured.best(task, "Numba"), measured.best(task, "C"), task.goal)
    mean = measured.mean(tasks, "Numba")
    yield Row("geometric mean: Numba over C", f"{mean:5.2f}", f"≤ {GOAL_OF_MEAN}", mean <= GOAL_OF_MEAN)


def main() -> None:
    """Measure, print, and draw what the command line asks for."""
    names = [task.name for task in TASKS]
    parser = argparse.ArgumentParser(prog="python -m micro", description=__doc__.partition(":")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="BENCHMARK", help=", ".join(names))
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_name("micro.png"), help="where to draw it")
    arguments = parser.parse_args()
    tasks = [task for task in TASKS if task.name in arguments.only]
    processors, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {processors} processors, load average {load:.1f}")
    try:
        with all_versions() as versions:
            measured = measure(versions, tasks, max(1, arguments.rounds))
            if "print_to_file" in arguments.only:
                check_file(versions)
    except (WrongAnswer, native.MissingProgram) as error:
        sys.exit(str(error))
    print_table(measured, tasks)
    for row in [Row("what", "measured", "goal"), *verdicts(measured, tasks)]:
        print(row)
    figure.draw(measured, tasks, arguments.figure)


if __name__ == "__main__":
    main()
