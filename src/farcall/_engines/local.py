"""Processes of this machine.

Each worker has one thread here, which starts it, waits for it and says why it ended. The worker asks the kernel
to be killed when that thread ends (PR_SET_PDEATHSIG is tied to the thread that forked), and that thread ends
with this process, however this process dies.
"""

import contextlib
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._errors import LaunchError
from .base import Engine, Launched, Offer
from .exits import Exits

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "BLIS_NUM_THREADS",
)
_PIPE = 1 << 20  # what Linux grants to everybody
_MOST_OUTPUT = 16 * 1024  # of a worker that did not start, kept for the error


@dataclass(frozen=True)
class Local(Engine):
    """``count`` processes of this machine that see ``sys.path``, the directory and the environment as they are now.

    ``threads`` is how many threads the numeric libraries of each worker use; ``env`` overrides variables
    (None removes one); ``python`` is another interpreter of the same version.
    """

    count: int
    threads: int = 1
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: str | None = None
    python: str | None = None
    _exits: Exits = field(default_factory=Exits, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"addprocs({self.count}): the number of workers cannot be negative")
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: each worker needs at least one")

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        deadline = time.monotonic() + offer.timeout
        arrivals: queue.SimpleQueue[tuple[_Worker, Launched | LaunchError]] = queue.SimpleQueue()
        plan = self._plan(offer)
        waiting = {_Worker(plan, arrivals.put, self._exits) for _ in range(self.count)}
        try:
            while waiting:
                try:
                    worker, arrival = arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    waiting.pop().signal(signal.SIGKILL)
                    yield LaunchError(f"a worker did not start within {offer.timeout:g} seconds")
                    continue
                if worker in waiting:
                    waiting.remove(worker)
                    yield arrival
        finally:
            for worker in waiting:
                worker.signal(signal.SIGKILL)
            while not arrivals.empty():
                _, arrival = arrivals.get()
                for each in (arrival.output or ()) if isinstance(arrival, Launched) else ():
                    os.close(each)

    def stop(self, worker: Launched, *, force: bool) -> None:
        assert isinstance(worker.key, _Worker)
        worker.key.signal(signal.SIGKILL if force else signal.SIGTERM)

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self._exits.watch(on_exit)

    def _plan(self, offer: Offer) -> "_Plan":
        environment = dict(os.environ)
        environment.update({name: str(self.threads) for name in THREAD_VARIABLES})
        for name, value in self.env.items():
            environment.pop(name, None) if value is None else environment.update({name: value})
        package = str(Path(__file__).parents[2])
        flags = [f"-W{each}" for each in sys.warnoptions]
        for name, value in sys._xoptions.items():
            if name != "importtime":  # it is this process that is looked at
                flags.append(f"-X{name}" if value is True else f"-X{name}={value}")
        command = [self.python or sys.executable, *flags, "-c", _BOOT, package]
        told = {
            "token": offer.token.hex(),
            "timeout": offer.timeout,
            "path": [each or os.getcwd() for each in sys.path],
            "main": main_path(),
            "listen": offer.listen,
            "certificate": offer.certificate,
        }
        return _Plan(command, environment, self.cwd, json.dumps(told).encode() + b"\n")


# Not "-m farcall": the worker must find this very package first, wherever the master took it from.
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from farcall._node.worker import main; main()"


def main_path() -> str | None:
    """Return the file of the running program, so that tracebacks in workers show its lines."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(path) if path else None


@dataclass(frozen=True)
class _Plan:
    """How each worker of one launch is started."""

    command: list[str]
    environment: dict[str, str]
    cwd: str | None
    told: bytes


class _Worker:
    """One process and the thread that starts it, waits for it and reports its end."""

    def __init__(self, plan: _Plan, arrive: Callable[[tuple["_Worker", Any]], None], exits: Exits) -> None:
        self._plan = plan
        self._arrive = arrive
        self._exits = exits
        self._process: subprocess.Popen[bytes] | None = None
        self._sent: signal.Signals | None = None
        self._lock = threading.Lock()  # a signal must not go to a process id that has been reaped and reused
        self._given_up = False
        self._out_of_memory_kills = _count_out_of_memory_kills()
        threading.Thread(target=self._tend, name="farcall-worker", daemon=True).start()

    def signal(self, number: signal.Signals) -> None:
        """Signal the worker and what it has started; one that is dead already is no error."""
        with self._lock:
            self._given_up = True
            if self._process is None or self._process.returncode is not None:
                return
            self._sent = number
            try:
                if number == signal.SIGKILL:
                    os.killpg(self._process.pid, number)  # it leads a session of its own
                else:
                    os.kill(self._process.pid, number)
            except ProcessLookupError:
                pass

    def _tend(self) -> None:
        ready, ready_writer = os.pipe()
        out, out_writer = _roomy_pipe()
        err, err_writer = _roomy_pipe()
        failure: Exception | None = None
        try:
            self._start(ready_writer, out_writer, err_writer)
        except (OSError, ValueError, TypeError) as error:
            failure = error
        for each in (ready_writer, out_writer, err_writer):
            os.close(each)
        if failure is not None:
            for each in (ready, out, err):
                os.close(each)
            self._arrive((self, LaunchError(f"cannot start {self._plan.command[0]}: {failure}")))
            return
        with os.fdopen(ready, "rb") as line:
            address = line.readline().decode().strip()
        worker = Launched(address, (out, err), self)
        with self._lock:
            wanted = not self._given_up
            if address and wanted:
                self._arrive((self, worker))
        reason = self._wait()
        if address and not wanted:
            os.close(out)
            os.close(err)
            return
        if address:
            self._exits.report(worker, reason)
        else:
            printed = _read_rest(out) + _read_rest(err)
            self._arrive((self, LaunchError(f"a worker did not start: {reason}; it printed:\n{printed.strip()}")))

    def _start(self, ready: int, out: int, err: int) -> None:
        plan = self._plan
        with self._lock:
            if self._given_up:
                raise OSError("it was given up before it started")
            self._process = subprocess.Popen(
                [*plan.command, str(ready), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                pass_fds=[ready],
                env=plan.environment,
                cwd=plan.cwd,
                start_new_session=True,  # Ctrl-C in the terminal is the master's to handle
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(plan.told)
            self._process.stdin.close()
        except OSError:
            pass  # it died at once; the wait below says why

    def _wait(self) -> str:
        """Block until the process has ended, reap it under the lock, and return why it ended."""
        process = self._process
        assert process is not None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            code = process.wait()
        return describe_exit(code, self._sent, _count_out_of_memory_kills() > self._out_of_memory_kills)


def _roomy_pipe() -> tuple[int, int]:
    """Return a pipe that holds what a worker prints before anybody reads it."""
    read, write = os.pipe()
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
    return read, write


def describe_exit(code: int, sent: signal.Signals | None, out_of_memory: bool) -> str:
    """Return in words why a process ended; ``sent`` is the last signal that we sent it."""
    if code >= 0:
        return f"exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown signal"
    text = f"killed by signal {-code} ({name})"
    if -code == signal.SIGKILL and sent != signal.SIGKILL and out_of_memory:
        return f"{text}: out of memory"
    if sent is not None and -code == sent:
        return f"{text}, sent by farcall"
    return text


def _count_out_of_memory_kills() -> int:
    """Return a number that grows whenever the kernel kills a process for lack of memory, of our control group or not.

    Version 2 counts those of the group and all groups below it; version 1 has only the group's own and the host's.
    """
    group = _control_group()
    sources = [group / "memory.events"]
    if not sources[0].exists():
        sources = [group / "memory.oom_control", Path("/proc/vmstat")]
    return sum(_read_count(source) for source in sources)


def _read_count(source: Path) -> int:
    try:
        words = source.read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0


def _control_group() -> Path:
    """Return the directory of this process's memory control group, of version 2 or 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return Path("/nowhere")
    groups = {kind: path.lstrip("/") for _, kind, path in (line.split(":", 2) for line in lines)}
    if "memory" in groups:
        return Path("/sys/fs/cgroup/memory", groups["memory"])
    return Path("/sys/fs/cgroup", groups.get("", ""))


def _read_rest(descriptor: int) -> str:
    """Return and close what is left in a pipe, without waiting for writers that are still there."""
    os.set_blocking(descriptor, False)
    data = b""
    try:
        while piece := os.read(descriptor, 65536):
            data = (data + piece)[-_MOST_OUTPUT:]
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    return data.decode(errors="replace")
