"""What calls are compared with, and what Linux says about a process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

clock = time.perf_counter

_ECHO = """
import socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while data := connection.recv(65536):
    connection.sendall(data)
"""


class RawEcho:
    """A process that sends back what it reads from a Unix socket; both sides block."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-c", _ECHO, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self()

    def __call__(self) -> None:
        """Send the message and read it back."""
        self._socket.sendall(self._message)
        self._socket.recv(len(self._message), socket.MSG_WAITALL)

    def __enter__(self) -> "RawEcho":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()
        self.process.wait()


def mean_time(action: Callable[[], object], count: int) -> float:
    """Return the seconds that an action takes, the mean of ``count`` in a row."""
    times = range(count)
    started = clock()
    for _ in times:
        action()
    return (clock() - started) / count


def interleave(rounds: int, *measurements: Callable[[], float]) -> list[float]:
    """Return the median of each measurement; all are taken in turn, so that what disturbs one disturbs all."""
    results = [[measure() for measure in measurements] for _ in range(rounds)]
    return [median(column) for column in zip(*results, strict=True)]


def start_interpreter(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a fresh interpreter whose standard input and output are pipes."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def running(code: str) -> Iterator[tuple[int, str]]:
    """Have code run in a fresh interpreter, and yield its process id and the line that it prints when it is ready.

    The code ends by reading a line, which comes at the end of the block.
    """
    with start_interpreter(code) as process:
        assert process.stdout is not None
        yield process.pid, process.stdout.readline()
        process.communicate("\n")


def measured_by(code: str) -> float:
    """Return the number that code prints in a fresh interpreter."""
    with start_interpreter(code) as process:
        return float(process.communicate()[0])


def time_of(code: str) -> float:
    """Return the seconds from the start of a fresh interpreter that runs code to its end."""
    started = clock()
    with start_interpreter(code) as process:
        process.communicate()
    return clock() - started


def private_memory(process: int) -> int:
    """Return the bytes of memory that only this process uses."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def resident_memory(process: int) -> int:
    """Return the bytes of memory that a process uses, shared ones included."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Activity(NamedTuple):
    """What a process has done since its start."""

    seconds: float  # of processor time
    switches: int  # times that one of its threads was taken off a processor


def activity(processes: list[int]) -> Activity:
    """Return what some processes have done together."""
    nanoseconds = switches = 0
    for process in processes:
        for task in Path(f"/proc/{process}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
            lines = (task / "status").read_text().splitlines()
            switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return Activity(nanoseconds / 1e9, switches)


@contextmanager
def placed(*placements: tuple[int, set[int]]) -> Iterator[None]:
    """Keep processes, given by their ids, with all their threads, on the given processors in the block."""
    allowed = os.sched_getaffinity(0)
    try:
        for process, processors in placements:
            _place(process, processors)
        yield
    finally:
        for process, _ in placements:
            _place(process, allowed)


def _place(process: int, processors: set[int]) -> None:
    for thread in os.listdir(f"/proc/{process}/task"):
        try:
            os.sched_setaffinity(int(thread), processors)
        except ProcessLookupError:
            pass  # it has ended meanwhile
