"""farcall doctor: what is installed, which limits there are, and whether a worker works."""

import os
import platform
import resource
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import farcall as fc

_WANTED = {"numpy": "pip install numpy", "numba": "pip install 'farcall[jit]'"}
_PEERS = ("matplotlib", "dask", "distributed", "ray", "ipyparallel", "mpi4py", "joblib", "loky")
_CALLS = 1000
_ARRAY = 80_000_000  # bytes
_ROUNDS = 5
_FEWEST_FILES = 256  # a worker takes about five descriptors of the master
_FEWEST_PROCESSES = 64


def examine() -> int:
    """Print what there is and what was measured; return 0 if all is well, else 1 after saying what to do."""
    problems: list[str] = []
    _print_installed()
    _print_limits(problems)
    _print_worker(problems)
    print()
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print("all is well")
    return 1 if problems else 0


def _say(name: str, value: object) -> None:
    print(f"  {name:<18}{value}", flush=True)


# What is installed


def _print_installed() -> None:
    print("installed")
    _say("python", f"{platform.python_version()} ({platform.python_implementation()}) {sys.executable}")
    _say("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    _say("farcall", f"{fc.__version__} {Path(fc.__file__).parent}")
    _say("cloudpickle", _version_of("cloudpickle"))
    for name, command in _WANTED.items():
        _say(name, _version_of(name) or f"not installed: {command}")
    for name in _PEERS:
        found = _version_of(name)
        if found:
            _say(name, found)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


# Limits


def _print_limits(problems: list[str]) -> None:
    print("limits")
    usable = len(os.sched_getaffinity(0))
    _say("cores usable", f"{usable} of {os.cpu_count()}")
    _say("memory", _size(_memory_limit()))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    _say("open files", _count(files))
    if 0 <= files < _FEWEST_FILES:
        problems.append(f"only {files} files may be open, which is enough for few workers: ulimit -n 4096")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    _say("processes", _count(processes))
    if 0 <= processes < _FEWEST_PROCESSES:
        problems.append(f"only {processes} processes and threads are allowed: ulimit -u 4096")
    _say("/dev/shm", _size(_shm_size()))
    memfd = _has_memfd()
    _say("memfd", "yes" if memfd else "no")
    if not memfd:
        problems.append(
            "there are no memory files (memfd_create), so large arrays go through the socket: use Linux 3.17 or later, "
            "and a container that allows this system call"
        )


def _count(limit: int) -> str:
    return "no limit" if limit == resource.RLIM_INFINITY else str(limit)


def _size(limit: int | None) -> str:
    return "no limit" if limit is None else f"{limit / 1e9:.1f} GB"


def _memory_limit() -> int:
    """Return the bytes that the control group allows this process, or that the machine has if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for directory, name in _control_groups():
        for each in (directory, *directory.parents):
            try:
                limits.append(int((each / name).read_text()))
            except (OSError, ValueError):
                continue  # no such file, or it says "max"
    return min(limits)


def _control_groups() -> list[tuple[Path, str]]:
    """Return the directory of each control group that may limit memory, and the name of the file that says it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if not kinds:
            found.append((Path("/sys/fs/cgroup", path.lstrip("/")), "memory.max"))
        elif "memory" in kinds.split(","):
            found.append((Path("/sys/fs/cgroup/memory", path.lstrip("/")), "memory.limit_in_bytes"))
    return found


def _shm_size() -> int:
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize


def _has_memfd() -> bool:
    try:
        os.close(os.memfd_create("farcall-doctor"))
    except (AttributeError, OSError):
        return False
    return True


# A worker


def _print_worker(problems: list[str]) -> None:
    print("one worker")
    started = time.perf_counter()
    try:
        with fc.addprocs(1) as (pid,):
            fc.remotecall_fetch(pid, do_nothing)
            _say("start", f"{time.perf_counter() - started:.2f} s")
            _say("call", f"{_median(lambda: fc.remotecall_fetch(pid, do_nothing), _CALLS) * 1e6:.0f} microseconds")
            _print_throughput(pid)
            shared = _shares_memory(pid)
            _say("shared memory", "works" if shared else "does not work")
    except (fc.FarcallError, OSError) as error:
        problems.append(
            f"a worker did not start, or did not answer: {error}\n"
            f"what to do: see that {sys.executable} -c 'import farcall' works, that this directory is still there, "
            f"and that TMPDIR names a directory that can be written"
        )
        return
    if not shared:
        problems.append(
            "the processes cannot read each other's memory files in /proc, so large arrays go through the socket: "
            "run them as one user, in one container, with /proc mounted without hidepid"
        )


def _median(action: Callable[[], object], times: int) -> float:
    """Return the median of the seconds that an action takes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _print_throughput(pid: int) -> None:
    if not _version_of("numpy"):
        _say("80 MB array", "not measured: it needs numpy")
        return
    array = make_array()
    for name, action in (
        ("80 MB argument", lambda: fc.remotecall_fetch(pid, do_nothing, array)),
        ("80 MB result", lambda: fc.remotecall_fetch(pid, make_array)),
    ):
        action()  # the first one pays for fresh memory
        _say(name, f"{_ARRAY / _median(action, _ROUNDS) / 1e9:.1f} GB/s")


def _shares_memory(pid: int) -> bool:
    """Whether each of the two processes can read a memory file of the other, which large arrays need."""
    secret = secrets.token_bytes(16)
    try:
        mine = offer_memory(secret)
    except (AttributeError, OSError):
        return False
    try:
        there = fc.remotecall_fetch(pid, read_memory, *mine)
        theirs = fc.remotecall_fetch(pid, offer_memory, secret)
        return there == read_memory(*theirs) == secret
    except OSError:
        return False
    finally:
        os.close(mine[1])


# What the worker runs


def do_nothing(*args: object) -> None:
    """Return None: a call that costs nothing but the call."""


def make_array() -> Any:
    """Return an array of 80 MB, the same one each time."""
    return _the_array()


@cache
def _the_array() -> Any:
    import numpy

    return numpy.ones(_ARRAY // 8)


def offer_memory(content: bytes) -> tuple[int, int]:
    """Make a memory file; return this process and the descriptor."""
    descriptor = os.memfd_create("farcall-doctor")
    os.pwrite(descriptor, content, 0)
    return os.getpid(), descriptor


def read_memory(process: int, descriptor: int) -> bytes:
    """Return the start of a memory file of another process. OSError if it is out of reach."""
    opened = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDONLY)
    try:
        return os.pread(opened, 16, 0)
    finally:
        os.close(opened)
