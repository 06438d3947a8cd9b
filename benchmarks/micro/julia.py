"""The benchmarks in Julia, run by a process that waits for their names."""

import ast
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any


def command() -> list[str] | None:
    """Return how to start Julia, as the environment variable ``JULIA`` says, or else by its name, or None."""
    words = shlex.split(os.environ.get("JULIA", "julia"))
    return words if words and shutil.which(words[0]) else None


class Julia:
    """A process of Julia. It gets the program as an argument: it need not see the files that are here."""

    def __init__(self, words: list[str]) -> None:
        said = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
        self.version = said.stdout.strip()
        program = Path(__file__).with_name("micro.jl").read_text()
        options = ["--startup-file=no", "-O3", "-e", program]
        self._process = subprocess.Popen(
            [*words, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, name: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
        """Return the seconds that a benchmark took, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, *arguments, file=self._process.stdin)
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"Julia ended in {name}; what it says is above")
        _, milliseconds, answer = reply.split(",", 2)
        return float(milliseconds) / 1e3, None if answer == "nothing\n" else ast.literal_eval(answer)

    def close(self) -> None:
        """End the process, which ends with its input."""
        self._process.communicate()
