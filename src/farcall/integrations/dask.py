"""Dask's data in farcall's calls and back, on workers of ``addprocs(cluster)``, which are Dask's.

From the import of this module on, a ``distributed.Future`` is a place: ``spawnat(future, f)`` runs f on the process
inside a Dask worker that has its data. And among the arguments of a call, at any depth, it is its value: the very
object of that worker's memory if it is there, which is not to be written to, else a copy that comes through Dask, from
worker to worker. ``chunks`` gives the futures of a collection, ``as_dask`` makes a future of what a call returned.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dask.base import is_dask_collection
from dask.sizeof import sizeof
from distributed import Client, default_client
from distributed import Future as DaskFuture
from distributed.utils_comm import gather_from_workers

from .. import fetch, myid, remotecall_fetch, wait
from .._cluster import master
from .._remote.calls import Place, locate
from .._remote.future import Future
from .._remote.stand_ins import landlord, let_stand_for_value
from .._types import ProcessId

T = TypeVar("T")

_TRIES = 3  # to get data: from the memory here, and from workers that are said to have it, which may have changed


def chunks(collection: Any) -> list[Any]:
    """Return the futures of the chunks of a persisted Dask collection, in lists that are nested as its blocks are.

    Of an array of two dimensions a list of rows of blocks, of a bag or a dataframe a list of partitions. Does not
    block. ValueError if it is not persisted, for then nothing of it is on any worker.
    """
    if not is_dask_collection(collection):
        raise TypeError(f"chunks() is of a Dask collection, not of {type(collection).__name__}")
    graph = dict(collection.__dask_graph__())

    def find(key: Any) -> "DaskFuture[Any]":
        what = graph[key]
        return what if isinstance(what, DaskFuture) else find(getattr(what, "target", what))  # another name of it

    def nest(keys: Any) -> Any:
        return [nest(each) for each in keys] if isinstance(keys, list) else find(keys)

    try:
        return nest(collection.__dask_keys__())  # type: ignore[no-any-return]
    except (KeyError, TypeError):  # a task
        name = type(collection).__name__
        raise ValueError(f"this {name} is not on the workers: write collection = collection.persist() before") from None


def as_dask(future: Future[T], client: Client | None = None) -> "DaskFuture[T]":
    """Return a ``distributed.Future`` of what a call on a Dask worker returned, which stays in the memory there.

    Tasks and collections of Dask use it where it is, without a copy, and it is freed with the last future that there
    is of it, here or in Dask. If that worker is lost so is the value, and the future is cancelled. ``client`` is
    Dask's, the current one by default. Blocks until the call has ended, and raises what it raised.
    """
    client = default_client(client)
    pid = wait(future).where
    address = remotecall_fetch(pid, _address)
    if address not in client.nthreads([address]):
        raise ValueError(f"{address}, which has the value, is no worker of {client}: give another client=")
    key = f"farcall-{uuid.uuid4().hex}"
    kept: DaskFuture[T] = DaskFuture(key, client)
    remotecall_fetch(pid, _keep, future, key, client.id)
    return kept


# Where


class _ItsWorker(Place):
    """The process in a Dask worker that has the data of a future, when it has been computed."""

    def __init__(self, future: "DaskFuture[Any]") -> None:
        self._future = future

    def place(self, future: Future[Any], begin: Callable[[ProcessId], None]) -> None:
        def computed(data: "DaskFuture[Any]") -> None:
            try:
                begin(remotecall_fetch(1, _find_process, repr(data), _whereabouts(data)))
            except Exception as error:
                future.finish(None, error)

        self._future.add_done_callback(computed)


def _whereabouts(future: "DaskFuture[Any]") -> list[str]:
    """Return the addresses of the Dask workers that have data, when it has been computed. Raises why it was not."""
    error = future.exception()
    if error is not None:
        raise error.with_traceback(future.traceback())
    return list(future.client.who_has([future])[future.key])


def _find_process(what: str, addresses: list[str]) -> ProcessId:
    """Return our process in one of some Dask workers. On the master."""
    pid = master().find(addresses)
    if pid is None:
        where = ", ".join(addresses) or "no worker any more"
        raise ValueError(f"{what} is on {where}, where no process is ours: addprocs(client) makes one in each")
    return pid


locate.register(DaskFuture, _ItsWorker)


# As an argument


def _copy(future: "DaskFuture[Any]") -> "DaskFuture[Any]":
    return DaskFuture(future.key, future.client)


def _describe(future: "DaskFuture[Any]") -> tuple[Any, str]:
    return future.key, future.client.scheduler.address


def _find(reference: "Future[DaskFuture[Any]]", key: Any, scheduler: str) -> Any:
    """Return the value of a future of Dask's; in the process that wants it."""
    worker = landlord()
    addresses = list[str]()
    for _ in range(_TRIES if worker is not None else 0):
        is_ours = scheduler == worker.scheduler.address or worker.address in addresses  # not one of the same name
        found = _run_on_loop(worker, _read(worker, key, addresses, is_ours))
        if key in found:
            return found[key]
        addresses = remotecall_fetch(reference, _ask_whereabouts, reference)
    return remotecall_fetch(reference, _gather, reference)  # no worker of Dask, or out of reach of the others


async def _read(worker: Any, key: Any, addresses: list[str], is_ours: bool) -> dict[Any, Any]:
    """Return data by its key, from the memory of a Dask worker or from others; on its event loop."""
    if is_ours and key in worker.data:
        return {key: worker.data[key]}
    found, *_ = await gather_from_workers({key: addresses}, rpc=worker.rpc, who=worker.address)
    return found


def _ask_whereabouts(reference: "Future[DaskFuture[Any]]") -> list[str]:
    return _whereabouts(fetch(reference))


def _gather(reference: "Future[DaskFuture[Any]]") -> Any:
    return fetch(reference).result()


let_stand_for_value(DaskFuture, _copy, _describe, _find)


# As a result


def _address() -> str:
    """Return Dask's name of the worker that this process is in."""
    worker = landlord()
    if worker is None:
        raise TypeError(f"the value is on process {myid()}, which is in no worker of Dask: use client.scatter(value)")
    return str(worker.address)


def _keep(future: Future[Any], key: str, client: str) -> None:
    """Put the value of a call into the memory of this Dask worker, and have the scheduler know, as scatter does."""
    worker, value = landlord(), fetch(future)

    async def put() -> None:
        worker.update_data({key: value})
        size = {key: sizeof(value)}
        await worker.scheduler.update_data(who_has={key: [worker.address]}, nbytes=size, client=client)

    _run_on_loop(worker, put())


def _run_on_loop(worker: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the event loop of a Dask worker; an interrupt cancels it."""
    outcome = Future[T]()
    running = asyncio.run_coroutine_threadsafe(coroutine, worker.loop.asyncio_loop)

    def finish(done: Any) -> None:
        if not done.cancelled():
            error = done.exception()
            outcome.finish(None if error else done.result(), error)

    running.add_done_callback(finish)
    try:
        return outcome.result()
    except KeyboardInterrupt:
        running.cancel()
        raise
