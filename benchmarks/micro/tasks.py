"""What the benchmarks are: those of JuliaLang/Microbenchmarks (MIT licence), with its sizes, in code of our own.

Where its versions differ, Julia's counts: ``matrix_statistics`` in its C multiplies memory that nobody has written.

Every version has a function for each benchmark, which takes the same arguments and returns the same kind of answer, so
that every answer can be checked. C and Numba draw the same random numbers: their answers to the same seed are equal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One benchmark."""

    name: str
    arguments: Callable[[int], tuple[Any, ...]]  # those of a seed
    is_right: Callable[[Any], bool]  # whatever the seed was
    goal: float  # the most that Numba may take, as a multiple of C
    parts: int = 1  # by which a time is divided


class WrongAnswer(Exception):
    """A version does not compute what it should."""


FIBONACCI = 20, 100  # as the original does, many calls in each timed loop; a time is that of one
PRINTED = 100_000
LINES = "".join(f"{i} {i + 1}\n" for i in range(PRINTED)).encode()  # Julia does not count what it prints: it says None

TASKS = (
    Task("recursion_fibonacci", lambda seed: FIBONACCI, lambda total: total == 100 * 6765, 2.6, parts=100),
    Task("parse_integers", lambda seed: (1000, seed), lambda total: 0.4 < total / 1000 / 2**32 < 0.6, 1.2),
    Task("userfunc_mandelbrot", lambda seed: (21, 26), lambda total: total == 14791, 1.2),
    Task("recursion_quicksort", lambda seed: (5000, seed), lambda median: 0.45 < median < 0.55, 1.2),
    Task("iteration_pi_sum", lambda seed: (500, 10_000), lambda total: abs(total - 1.644834071848065) < 1e-12, 1.2),
    Task("matrix_statistics", lambda seed: (1000, seed), lambda both: all(0.5 < each < 1.5 for each in both), 1.2),
    Task("matrix_multiply", lambda seed: (1000, seed), lambda trace: 245 < trace / 1000 < 255, 1.2),
    Task("print_to_file", lambda seed: ("/dev/null", PRINTED), lambda size: size in (len(LINES), None), 1.2),
)
GOAL_OF_MEAN = 1.1
