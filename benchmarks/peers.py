"""The same operations by other libraries: ``python benchmarks/peers.py NAME`` measures one of them.

Two kinds: calls of a no-op, and items that are put into a queue in another process and taken out again.

Each is measured in a process of its own, with one worker, in the quickest way that it offers, and prints as JSON
the seconds of one call, of one call among many in flight, and of the raw echo measured in between.
"""

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from baselines import RawEcho, clock, interleave, mean_time, placed

IN_FLIGHT = 1000
MESSAGE = bytes(32) + pickle.dumps((), 5)  # as long as the frame of such a call and as its answer in farcall

_PATIENCE = 120.0  # seconds for one peer, from its start to its end
_ROUND = 0.1  # seconds that the calls of one round take, about


def noop() -> None:
    """Do nothing; the call that everybody makes."""


class Caller(NamedTuple):
    """Two ways to call ``noop``: wait for one call, or start one and return a function that waits for it."""

    call: Callable[[], Any]
    start: Callable[[], Callable[[], Any]]


class Times(NamedTuple):
    """Seconds of one call, of one call among many in flight, and of one raw echo."""

    call: float
    in_flight: float
    echo: float


@contextmanager
def farcall() -> Iterator[Caller]:
    """Yield calls by farcall itself."""
    import farcall as fc

    with fc.addprocs(1) as [worker]:
        yield Caller(lambda: fc.remotecall_fetch(worker, noop), lambda: fc.spawnat(worker, noop).result)


@contextmanager
def pool() -> Iterator[Caller]:
    """Yield calls by ``multiprocessing.Pool``."""
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        yield Caller(lambda: workers.apply(noop), lambda: workers.apply_async(noop).get)


@contextmanager
def using(executor: Executor) -> Iterator[Caller]:
    """Yield calls by a ``concurrent.futures`` executor."""
    with executor:
        yield Caller(lambda: executor.submit(noop).result(), lambda: executor.submit(noop).result)


def process_pool() -> AbstractContextManager[Caller]:
    """Return calls by ``ProcessPoolExecutor``."""
    return using(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))


def loky() -> AbstractContextManager[Caller]:
    """Return calls by loky."""
    from loky import ProcessPoolExecutor as LokyExecutor

    return using(LokyExecutor(1))


def mpi() -> AbstractContextManager[Caller]:
    """Return calls by mpi4py, to a worker that MPI spawns."""
    from mpi4py.futures import MPIPoolExecutor

    return using(MPIPoolExecutor(1))


@contextmanager
def ipyparallel() -> Iterator[Caller]:
    """Yield calls by an ipyparallel direct view."""
    import ipyparallel

    with ipyparallel.Cluster(n=1, log_level=40) as client:
        view = client[0]
        yield Caller(lambda: view.apply_sync(noop), lambda: view.apply_async(noop).get)


@contextmanager
def dask() -> Iterator[Caller]:
    """Yield calls by Dask's ``Client.submit``, on a local cluster of one process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield Caller(lambda: client.submit(noop, pure=False).result(), lambda: client.submit(noop, pure=False).result)


@contextmanager
def ray() -> Iterator[Caller]:
    """Yield calls of a Ray actor's method, which is quicker than a task."""
    import ray

    class Worker:
        def noop(self) -> None:
            """Do nothing."""

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        actor = ray.remote(Worker).remote()
        yield Caller(lambda: ray.get(actor.noop.remote()), lambda: _getter(ray.get, actor.noop.remote()))
    finally:
        ray.shutdown()


# Queues


@contextmanager
def farcall_channel() -> Iterator[Caller]:
    """Yield a put and a take by farcall's RemoteChannel."""
    import farcall as fc

    with fc.addprocs(1) as [worker]:
        yield _through(fc.RemoteChannel[int](2 * IN_FLIGHT, pid=worker))


@contextmanager
def manager_queue() -> Iterator[Caller]:
    """Yield a put and a get by the queue of a ``multiprocessing.Manager``, the one that other hosts can use."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield _through(manager.Queue(2 * IN_FLIGHT))


@contextmanager
def dask_queue() -> Iterator[Caller]:
    """Yield a put and a get by Dask's ``Queue``, which lives in the scheduler's process: here one of its own."""
    from distributed import Client, Queue

    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as scheduler:
        assert scheduler.stderr is not None
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        threading.Thread(target=scheduler.stderr.read, daemon=True).start()
        with Client(address) as client:
            yield _through(Queue(client=client))
        scheduler.terminate()


@contextmanager
def ray_queue() -> Iterator[Caller]:
    """Yield a put and a get by Ray's ``Queue``, an actor."""
    import ray
    from ray.util.queue import Queue

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield _through(Queue(2 * IN_FLIGHT))
    finally:
        ray.shutdown()


def _through(queue: Any) -> Caller:
    """Return an item's way into a queue and out of it, alone or behind others."""
    take = getattr(queue, "take", None) or queue.get

    def start() -> Callable[[], Any]:
        queue.put(1)
        return take  # type: ignore[no-any-return]

    return Caller(lambda: start()(), start)


def _getter(get: Callable[[Any], Any], reference: Any) -> Callable[[], Any]:
    return lambda: get(reference)


class Peer(NamedTuple):
    """A library: what to import to see that it is installed, and how to call by it."""

    title: str
    module: str
    calls: Callable[[], AbstractContextManager[Caller]]


PEERS = {
    "farcall": Peer("farcall", "farcall", farcall),
    "pool": Peer("multiprocessing.Pool", "multiprocessing", pool),
    "process_pool": Peer("ProcessPoolExecutor", "concurrent.futures", process_pool),
    "loky": Peer("loky", "loky", loky),
    "mpi": Peer("mpi4py.futures", "mpi4py", mpi),
    "ipyparallel": Peer("ipyparallel", "ipyparallel", ipyparallel),
    "dask": Peer("dask (distributed)", "distributed", dask),
    "ray": Peer("ray (an actor)", "ray", ray),
    "farcall_channel": Peer("farcall's RemoteChannel", "farcall", farcall_channel),
    "manager_queue": Peer("multiprocessing.Manager().Queue", "multiprocessing", manager_queue),
    "dask_queue": Peer("Dask's Queue", "distributed", dask_queue),
    "ray_queue": Peer("Ray's Queue", "ray", ray_queue),
}
QUEUES = [name for name in PEERS if name.endswith(("_channel", "_queue"))]
CALLS = [name for name in PEERS if name not in QUEUES]


def installed(names: list[str]) -> list[str]:
    """Return those peers that can be imported here."""
    return [name for name in names if find_spec(PEERS[name].module) is not None]


def many(caller: Caller, count: int) -> float:
    """Return the seconds per call of ``count`` calls in flight together."""
    started = clock()
    for wait in [caller.start() for _ in range(count)]:
        wait()
    return (clock() - started) / count


def measure(name: str, rounds: int) -> Times:
    """Measure a peer in a process of its own; RuntimeError says what it printed if it failed."""
    with tempfile.TemporaryDirectory(prefix="farcall-") as directory:
        environment = os.environ | {
            "TMPDIR": directory,
            "RAY_TMPDIR": directory,
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",  # a worker more than there are cores
        }
        process = subprocess.Popen(
            [sys.executable, __file__, name, str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # a group of its own, so that nothing of it can be left
        )
        return _result_of(process)


def _result_of(process: "subprocess.Popen[str]") -> Times:
    try:
        output, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took longer than {_PATIENCE:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise RuntimeError((errors.strip() or f"exit status {process.returncode}").splitlines()[-1])
    return Times(*json.loads(output.splitlines()[-1]))


def _measure_here(name: str, rounds: int) -> Times:
    with PEERS[name].calls() as caller, RawEcho(MESSAGE) as echo:
        mean_time(caller.call, 5)
        count = max(5, min(1000, int(_ROUND / mean_time(caller.call, 20))))
        many(caller, IN_FLIGHT)
        return Times(
            *interleave(
                rounds,
                lambda: mean_time(caller.call, count),
                lambda: many(caller, IN_FLIGHT),
                lambda: _between_two_cores(echo),
            )
        )


def _between_two_cores(echo: RawEcho) -> float:
    """Return the seconds of an echo; where the system runs it otherwise depends on what the peer leaves free."""
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    with placed((os.getpid(), {first}), (echo.process.pid, {last})):
        return mean_time(echo, 1000)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the peers'
    with contextlib.redirect_stdout(io.StringIO()):
        times = _measure_here(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(times))
