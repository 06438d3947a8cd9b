"""What calls cost on a Dask cluster: ``python benchmarks/clusters.py`` prints each quantity, its goal, and whether it
is met.

Everything is a ratio to what is measured in the same run, in turns with it; the median over the rounds counts. What
goes over a network goes to a worker on a host of the tests, a namespace of this machine: there is neither a Unix socket
nor shared memory in common, and the network itself costs next to nothing. That needs root, and is left out without it.
``--only`` chooses among the groups, ``--quick`` does fewer rounds.
"""

import argparse
import asyncio
import logging
import multiprocessing
import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import dask
import numpy as np
from baselines import clock, interleave, mean_time, placed
from distributed import Client, LocalCluster, Security, Worker
from network import Host, Hosts, missing, running_on, sink_on
from peers import IN_FLIGHT, Caller, many
from report import Row, at_most, bandwidth, duration, run
from tls import make_certificate, typical_time

import farcall as fc

_LARGE = 80_000_000
_CALLS = 300
_MANY = 100
_PATIENCE = 120.0  # seconds that many workers have to come up


class Options(NamedTuple):
    """How much to measure."""

    rounds: int


def noop() -> None:
    """Do nothing."""


def take(array: Any) -> int:
    """Return the size of an array, which is not read."""
    return int(array.size)


def give() -> Any:
    """Return an array that the worker has."""
    return benchmark_array  # noqa: F821 (the worker has it)


def at_least(what: str, other: float, ours: float, goal: float | None = None) -> Row:
    """Return the row of another's time as a multiple of ours."""
    measured = f"{other / ours:5.1f} ({duration(other)} over {duration(ours)})"
    return Row(what, measured, f"≥ {goal:g}", other / ours >= goal) if goal is not None else Row(what, measured)


# Beside Dask's own calls


def measure_calls(options: Options) -> Iterator[Row]:
    """Yield what Dask takes for what ours does in the same worker, a process under a nanny."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        fc.addprocs(cluster) as [worker],
    ):
        dask_ = Caller(lambda: client.submit(noop, pure=False).result(), lambda: client.submit(noop, pure=False).result)
        ours = Caller(partial(fc.remotecall_fetch, worker, noop), lambda: fc.spawnat(worker, noop).result)
        for each in dask_, ours:
            mean_time(each.call, 20)
            many(each, IN_FLIGHT)
        theirs, own, theirs_of_many, own_of_many = interleave(
            options.rounds,
            lambda: mean_time(dask_.call, 20),
            lambda: mean_time(ours.call, 1000),
            lambda: many(dask_, IN_FLIGHT),
            lambda: many(ours, IN_FLIGHT),
        )
        yield at_least("Dask's submit(…).result() / remotecall_fetch, a no-op", theirs, own, 40)
        yield at_least(f"  one of {IN_FLIGHT} in flight", theirs_of_many, own_of_many)


# Over a network


@contextmanager
def dask_on(host: Host, security: Security | None, options: list[str]) -> Iterator[Client]:
    """Start a scheduler and a worker on a host, and yield a client."""
    place = ["--host", host.address, "--no-dashboard", *options]
    with running_on(host, ["-m", "dask", "scheduler", "--port", "0", *place], stderr=subprocess.PIPE) as scheduler:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        worker = ["-m", "dask", "worker", address, "--nthreads", "1", "--no-nanny", *place]
        with (
            running_on(host, worker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            Client(address, security=security, set_as_default=False) as client,
        ):
            client.wait_for_workers(1, timeout=_PATIENCE)
            yield client


def measure_network(options: Options) -> Iterator[Row]:
    """Yield what calls and large arrays take over a network, encrypted and not."""
    if lacking := missing():
        yield Row("over a network", f"left out: hosts need {lacking}")
        return
    with ExitStack() as stack:
        [host] = stack.enter_context(Hosts(1))
        authority, certificate, key = make_certificate(stack.enter_context(tempfile.TemporaryDirectory()))
        security = Security(
            tls_ca_file=authority, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
        )
        tls = ["--protocol", "tls", "--tls-ca-file", authority, "--tls-cert", certificate, "--tls-key", key]
        clients = stack.enter_context(dask_on(host, security, tls)), stack.enter_context(dask_on(host, None, []))
        workers = [stack.enter_context(fc.addprocs(client))[0] for client in clients]
        yield from _rows_of_network_calls(options, host, *workers)
        yield from _rows_of_transfers(options, host, *workers)


def _rows_of_network_calls(options: Options, host: Host, tls: int, tcp: int) -> Iterator[Row]:
    calls = [partial(typical_time, partial(fc.remotecall_fetch, worker, noop), _CALLS) for worker in (tls, tcp)]
    for call in calls:
        call()
    here, *_, there = sorted(os.sched_getaffinity(0)) * 2
    outside = {inside: pid for pid, inside, _ in host.namespaces.processes()}
    processes = [outside[fc.remotecall_fetch(worker, os.getpid)] for worker in (tls, tcp)]
    with placed((os.getpid(), {here}), *[(process, {there}) for process in processes]):
        yield at_most("call and answer over TLS / over TCP, on two cores", *interleave(options.rounds, *calls), 1.5)
    yield at_most("call and answer over TLS / over TCP, placed by the system", *interleave(options.rounds, *calls), 1.5)


def _rows_of_transfers(options: Options, host: Host, tls: int, tcp: int) -> Iterator[Row]:
    array = np.random.default_rng(1).random(_LARGE // 8)
    fc.everywhere(f"import numpy; benchmark_array = numpy.random.default_rng(1).random({array.size})", pids=[tls, tcp])
    with sink_on(host, array) as send:
        send()
        raw, taken, given, taken_by_tls = interleave(
            options.rounds,
            lambda: mean_time(send, 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(tcp, take, array), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(tcp, give), 3),
            lambda: mean_time(lambda: fc.remotecall_fetch(tls, take, array), 3),
        )
    yield bandwidth("80 MB array as argument over TCP; bytes/s over a raw socket's", _LARGE, taken, raw, 0.6)
    yield bandwidth("80 MB array as result over TCP; bytes/s over a raw socket's", _LARGE, given, raw, 0.6)
    yield bandwidth("80 MB array as argument over TLS; bytes/s over a raw socket's", _LARGE, taken_by_tls, raw)


# Many workers


def _be_worker(scheduler: str) -> None:
    """Be a Dask worker that leaves the processors to others while it is idle, as it would if it had one of its own."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")  # that a hundred of them make their folders slowly
    dask.config.set({f"distributed.admin.{each}.interval": "10s" for each in ("tick", "system-monitor")})
    dask.config.set({"distributed.worker.profile.enabled": False})

    async def work() -> None:
        async with Worker(scheduler, nthreads=1, dashboard=False, memory_limit=0) as worker:
            await worker.finished()

    asyncio.run(work())


@contextmanager
def many_workers() -> Iterator[Client]:
    """Start many Dask workers on this machine, each a process, and yield a client."""
    context = multiprocessing.get_context("forkserver")
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster, Client(cluster) as client:
        processes = [
            context.Process(target=_be_worker, args=(cluster.scheduler_address,), daemon=True) for _ in range(_MANY)
        ]
        for each in processes:
            each.start()
        client.wait_for_workers(_MANY, timeout=_PATIENCE)
        yield client
        for each in processes:
            each.kill()


def measure_many(options: Options) -> Iterator[Row]:
    """Yield what many workers take."""
    with many_workers() as client:
        started = clock()
        with fc.addprocs(client) as workers:
            added = clock() - started
            fc.everywhere("1+1")
            every, one, sent = interleave(
                options.rounds,
                lambda: mean_time(lambda: fc.everywhere("1+1"), 3),
                lambda: mean_time(lambda: fc.everywhere("1+1", pids=workers[:1]), 100),
                lambda: mean_time(lambda: [fc.remote_do(worker, noop) for worker in workers], 3),
            )
            yield Row(f'everywhere("1+1") on {_MANY} workers', duration(every), "≤ 1 s", every <= 1)
            yield Row("  on one of them", duration(one))
            yield Row(f"  {_MANY} messages, without their answers", duration(sent))
            yield Row(f"addprocs of the {_MANY} that are there", duration(added))


GROUPS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "calls": measure_calls,
    "network": measure_network,
    "many": measure_many,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="over which medians are taken (11)")
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=str([*GROUPS]))
    arguments = parser.parse_args()
    options = Options(5 if arguments.quick else arguments.rounds)
    run(row for group in arguments.only for row in GROUPS[group](options))


if __name__ == "__main__":
    main()
