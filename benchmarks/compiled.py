"""What machine code that travels saves: ``python benchmarks/compiled.py`` prints each quantity and its goal.

The first call of a function on a fresh worker, which has imported Numba and compiled nothing, for every kind of
function in ``kinds.py``: with the code that this process has made, and compiled there from source. Each call has a
worker of its own. Then what a specialisation weighs, and what a call of a compiled function costs. ``--only`` chooses
among the groups, ``--quick`` does one round.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from statistics import median

from baselines import clock, interleave
from kinds import KINDS, Kind
from numba import njit
from report import Row, at_most, duration, run

import farcall as fc
from farcall._wire import pickles
from farcall._wire.compiled.counting import what_was_compiled

_CALLS = 2000


def import_numba() -> None:
    """Import what the user's functions need."""
    import numba  # noqa: F401


def first_call(kind: Kind, function: Callable[..., object], **environment: str) -> tuple[float, int]:
    """Return the seconds of the first call on a fresh worker, and how often Numba compiled there."""
    with fc.addprocs(1, env=environment) as [pid]:
        fc.remotecall_fetch(pid, import_numba)
        arguments = kind.args()
        started = clock()
        fc.remotecall_fetch(pid, function, *arguments)
        seconds = clock() - started
        return seconds, fc.remotecall_fetch(pid, what_was_compiled)[0]


def measure_first_calls(rounds: int) -> Iterator[Row]:
    """Shipped over recompiled, for every kind and in the median of all."""
    ratios, compiled, expected = [], 0, 0
    for kind in KINDS:
        shipped, recompiled = [], []
        for _ in range(rounds):
            function = kind.make()
            function(*kind.args())
            seconds, count = first_call(kind, function)
            shipped.append(seconds)
            compiled += count
            expected += kind.compiles
            recompiled.append(first_call(kind, function, FARCALL_MACHINE_CODE="0")[0])
        ratios.append(median(shipped) / median(recompiled))
        yield at_most(f"first call on a fresh worker / recompiled: {kind.name}", median(shipped), median(recompiled))
    ratio = median(ratios)
    yield Row("first call on a fresh worker / recompiled: median", f"{ratio:5.2f}", "≤ 0.12", ratio <= 0.12)
    blocks = f"{compiled}, {expected} of them object mode"
    yield Row("compilations there", blocks if expected else str(compiled), "0", compiled == expected)


def measure_size(rounds: int) -> Iterator[Row]:
    """What a small function with one specialisation takes on the wire."""
    for kind in KINDS[:2]:
        function = kind.make()
        source = pickles.encode(function).size
        function(*kind.args())
        size = pickles.encode(function).size
        said = f"{size / 1e3:5.1f} kB, of which source {source / 1e3:.1f}"
        yield Row(f"a specialisation on the wire: {kind.name}", said, "≤ 20 kB", size <= 20_000)


def measure_calls(rounds: int) -> Iterator[Row]:
    """Calls of a compiled function, of the plain one, and what loading a specialisation costs a warm worker."""

    def plain(x: int) -> int:
        return x + 1

    compiled = njit(plain)
    compiled(1)

    with fc.addprocs(1) as [pid]:

        def calls(function: Callable[[int], int]) -> Callable[[], float]:
            def measure() -> float:
                started = clock()
                for _ in range(_CALLS):
                    fc.remotecall_fetch(pid, function, 1)
                return (clock() - started) / _CALLS

            return measure

        of_compiled, of_plain = interleave(5 * rounds, calls(compiled), calls(plain))
        fc.remotecall_fetch(pid, compiled, 1)
        loads = []
        for _ in range(10 * rounds):
            function = njit(lambda x: x + 1)
            function(1)
            started = clock()
            fc.remotecall_fetch(pid, function, 1)
            loads.append(clock() - started)
    yield at_most("a call of a compiled function / of a plain one", of_compiled, of_plain, 1.1)
    yield Row("the first call on a warm worker, code and all", duration(median(loads)))


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "first": measure_first_calls,
    "size": measure_size,
    "calls": measure_calls,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="over which medians are taken (3)")
    parser.add_argument("--quick", action="store_true", help="1 round")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=str([*GROUPS]))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of Numba, about the functions themselves
    run(row for group in arguments.only for row in GROUPS[group](1 if arguments.quick else arguments.rounds))


if __name__ == "__main__":
    main()
