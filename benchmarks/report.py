"""How benchmarks print what they have measured."""

import os
import platform
from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One quantity. ``met`` is None where there is no goal."""

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return f"{self.what:<68} {self.measured:<32} {self.goal:<13} {verdict}".rstrip()


def at_most(what: str, subject: float, baseline: float, goal: float | None = None) -> Row:
    """Return the row of a time as a multiple of another."""
    ratio = subject / baseline
    measured = f"{ratio:5.2f} ({duration(subject)} over {duration(baseline)})"
    return Row(what, measured, f"≤ {goal}", ratio <= goal) if goal is not None else Row(what, measured)


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def bandwidth(what: str, size: int, subject: float, baseline: float, goal: float | None = None) -> Row:
    """Return the row of a transfer's bytes per second as a part of another's; both in seconds."""
    ratio = baseline / subject
    measured = f"{ratio:5.2f} ({size / subject / 1e9:.2f} over {size / baseline / 1e9:.2f} GB/s)"
    return Row(what, measured, f"≥ {goal}", ratio >= goal) if goal is not None else Row(what, measured)


def run(rows: Iterable[Row]) -> None:
    """Print the machine, and each row when it has been measured."""
    processors, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {processors} processors, load average {load:.1f}")
    print(Row("what", "measured", "goal"))
    for row in rows:
        print(row, flush=True)
