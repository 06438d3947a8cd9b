"""Running all versions in turns, and checking every answer."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from .tasks import LINES, PRINTED, Task, WrongAnswer

_TURN = 0.02  # seconds that a version runs before it is the next one's turn, or a single run if that takes longer


class Version(Protocol):
    """The benchmarks in one language."""

    def run(self, name: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        """Return the seconds that a benchmark took, and its answer."""


class Here:
    """A version that this process can call."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def run(self, name: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        """Return the seconds that a benchmark took, and its answer."""
        function = getattr(self._functions, name)
        started = time.perf_counter()
        answer = function(*arguments)
        return time.perf_counter() - started, answer


class Record:
    """What came of one benchmark in one language."""

    def __init__(self, task: Task, language: str) -> None:
        self._task, self._language = task, language
        self.answers: list[Any] = []  # those to the seeds 0, 1, 2, ...
        self.first = math.inf  # seconds; with the compilation, where it is compiled when it is called
        self.best = math.inf

    def run_once(self, version: Version) -> float:
        """Run the benchmark with the next seed, check the answer, and return the seconds that it took."""
        task = self._task
        seconds, answer = version.run(task.name, task.arguments(len(self.answers)))
        if not task.is_right(answer):
            raise WrongAnswer(f"{task.name} in {self._language} returned {answer}, which is wrong")
        if self.answers:
            self.best = min(self.best, seconds / task.parts)
        else:
            self.first = seconds
        self.answers.append(answer)
        return seconds

    def take_turn(self, version: Version) -> None:
        """Run the benchmark again and again for some time."""
        left = _TURN
        while left > 0:
            left -= self.run_once(version)


class Measured(NamedTuple):
    """All records of a run."""

    languages: list[str]
    records: dict[tuple[str, str], Record]  # by the names of the benchmark and the language

    def best(self, task: Task, language: str) -> float:
        """Return the least seconds."""
        return self.records[task.name, language].best

    def ratio(self, task: Task, language: str) -> float:
        """Return the least time as a multiple of C's."""
        return self.best(task, language) / self.best(task, "C")

    def mean(self, tasks: list[Task], language: str) -> float:
        """Return the geometric mean of the ratios."""
        return math.exp(sum(math.log(self.ratio(task, language)) for task in tasks) / len(tasks))


def measure(versions: dict[str, Version], tasks: list[Task], rounds: int) -> Measured:
    """Run each benchmark in each language once, which compiles it, and then in turns."""
    records = {(task.name, language): Record(task, language) for task in tasks for language in versions}
    for task in tasks:
        for language, version in versions.items():
            records[task.name, language].run_once(version)
    for _ in range(rounds):
        for task in tasks:
            for language, version in versions.items():
                records[task.name, language].take_turn(version)
    for task in tasks:
        compare(task, records[task.name, "C"].answers, records[task.name, "Numba"].answers)
    return Measured(list(versions), records)


def compare(task: Task, ours: list[Any], others: list[Any]) -> None:
    """Check that C and Numba gave the same answers to the same seeds."""
    for seed, (one, other) in enumerate(zip(ours, others, strict=False)):
        if not np.allclose(one, other, rtol=1e-9, atol=0):
            raise WrongAnswer(f"{task.name} of seed {seed} is {one} in C, but {other} in Numba")


def check_file(versions: dict[str, Version]) -> None:
    """Check what is printed, which is measured with a file that keeps nothing. Julia checks that when it starts."""
    with tempfile.TemporaryDirectory(prefix="farcall-") as directory:
        for language in versions.keys() - {"Julia"}:
            path = Path(directory, language)
            versions[language].run("print_to_file", (str(path), PRINTED))
            if path.read_bytes() != LINES:
                raise WrongAnswer(f"print_to_file in {language} wrote something else")
