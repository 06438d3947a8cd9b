"""Workers in pods of a Kubernetes cluster: what is asked for is deployed, and the Dask cluster that it makes is joined.

Inside the cluster the workers are dialled as those of any Dask cluster. From outside each has a port of this machine
that leads to it through the API server; workers talk to each other directly in any case. Dask says who comes and goes,
the status of the pods why.
"""

import asyncio
import base64
import contextlib
import dataclasses
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..._errors import LaunchError
from ..._types import Certificate
from ..base import Engine, Launched, Offer
from ..exits import Exits
from .access import find_access
from .connection import ApiError, Connection
from .deployment import Deployment, Status
from .manifests import SCHEDULER, SCHEDULER_PORT, TLS, WORKER, Document, Wanted, render, select, write
from .pods import address_of, is_of, is_ready, name_of, restarts_of, why_deleted, why_ended, why_leaving
from .watch import watch

if TYPE_CHECKING:
    from ..dask import Dask

_LOOPBACK = "127.0.0.1"
_MOUNTED = Path("/etc/farcall/tls")  # where pods of ours have the Secret
_NEWS_TAKE = 4.0  # seconds after its end in which the status of a pod says why
_INTERVAL = 0.5  # seconds between two looks
_PATIENCE = 600.0  # seconds in which everything is to come up, or end
_NOT_READY = 5.0  # seconds in which a pod is seen not to be ready whose worker has closed
_KNOCK = 5.0  # seconds in which a scheduler that listens answers
_REMOVED = "it was removed"  # by us


@dataclasses.dataclass
class _Member:
    """A worker: as we yielded it, as Dask's engine did, and where it is."""

    mine: Launched
    theirs: Launched
    pod: str
    restarts: int
    local: int | None
    reason: str | None = None
    """Dask's, while the pod's may still come."""


class Kubernetes(Engine):
    """``workers`` pods, each with one worker, in a namespace of a Kubernetes cluster, now and later.

    What is deployed is what ``farcall deploy kubernetes`` deploys but for JupyterLab, see docs/kubernetes.md. What is
    there already is joined, and changed only if asked for: how many ``workers``; the ``image`` that all run; ``cpu``
    (2, or "500m"), ``memory`` ("4Gi") and ``gpu`` (how many) of each worker. ``namespace`` and ``context`` are those of
    the kubeconfig by default; in a pod it is the pod's own cluster. The pods stay when the program ends: ``down``.
    """

    is_elastic = True

    def __init__(
        self,
        workers: int | None = None,
        *,
        image: str | None = None,
        namespace: str | None = None,
        cpu: float | str | None = None,
        memory: float | str | None = None,
        gpu: int | None = None,
        context: str | None = None,
    ) -> None:
        self._wanted = Wanted.read(workers, image, cpu, memory, gpu)
        self._namespace = namespace
        self._context = context
        self._connection: Connection | None = None
        self._deployment: Deployment | None = None
        self._dask: Dask | None = None
        self._exits = Exits()
        self._lock = threading.RLock()  # guards the three below
        self._pods: dict[str, Document] = {}
        self._members: dict[str, _Member] = {}  # by Dask's address
        self._arrivals: queue.SimpleQueue[Launched] | None = None  # while ``launch`` waits for them
        self._on_arrival: list[Callable[[Launched], None]] = []

    def __repr__(self) -> str:
        asked = {"namespace": self._namespace, "context": self._context, **vars(self._wanted)}
        return f"Kubernetes({', '.join(f'{name}={value!r}' for name, value in asked.items() if value is not None)})"

    # What is deployed

    def manifests(self, *, jupyter: bool = True) -> str:
        """Return what ``deploy`` applies, but for the Secrets, as YAML. Asks nobody."""
        return write(render(self._wanted, jupyter=jupyter, namespace=self._namespace))

    def deploy(self, *, jupyter: bool = True, timeout: float = _PATIENCE, say: Callable[[str], None] = print) -> Status:
        """Deploy what was asked for, with JupyterLab, and return when all runs and the workers have joined.

        Again is no error: what is asked for otherwise is changed, and what is not asked for stays as it is. Blocks, and
        ``say`` is told how it goes on. LaunchError says what to do.
        """
        with self._opened() as deployment:
            deployment.apply(self._wanted, jupyter=jupyter)
            say(f"applied to namespace {deployment.access.namespace} of {deployment.access.url}")
            return deployment.wait(timeout, say)

    def status(self) -> Status | None:
        """Return what is deployed and how it is; None if nothing is. LaunchError."""
        with self._opened() as deployment:
            return deployment.look()

    def scale(self, workers: int) -> None:
        """Have so many workers, as ``kubectl scale`` does. Returns at once; those that come join."""
        Wanted.read(workers)
        with self._opened() as deployment:
            deployment.api.scale(WORKER, lambda _: workers)

    def down(self, *, timeout: float = _PATIENCE, say: Callable[[str], None] = print) -> int:
        """Delete what bears our labels in the namespace, and nothing else; return how many objects there were.

        Blocks until the pods have ended. LaunchError.
        """
        with self._opened() as deployment:
            return deployment.remove(say, timeout)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Deployment]:
        """Have a connection for a block, which is that of the workers if there are any."""
        if self._connection is not None:
            yield Deployment(self._connection)
            return
        with contextlib.closing(Connection(find_access(self._context, self._namespace))) as connection:
            yield Deployment(connection)

    # Workers

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        if self._connection is not None:
            raise LaunchError(f"{self!r} has brought its workers already: make another")
        deadline = time.monotonic() + offer.timeout
        self._connection = connection = Connection(find_access(self._context, self._namespace))
        deployment = self._deployment = Deployment(connection)
        arrivals = self._arrivals = queue.SimpleQueue()
        try:
            is_changed = self._ask_for_pods(deployment)
            self._await_scheduler(deployment, is_changed, deadline, offer.timeout)
            left = deployment.count() or 0
            connection.start(self._watch(connection, deployment.api.path("Pod")))
            for arrival in self._join_dask(deployment, offer, deadline):
                left -= 1
                yield self._place(arrival) if isinstance(arrival, Launched) else arrival
            while left > 0 and time.monotonic() < deadline and not deployment.is_hopeless("worker"):
                with contextlib.suppress(queue.Empty):
                    yield self._place(arrivals.get(timeout=_INTERVAL))
                    left -= 1
            for _ in range(left):
                why = deployment.explain("worker") or "give it more time: addprocs(..., timeout=600)"
                yield LaunchError(f"{left} workers have not come after {offer.timeout:g} s: {why}")
        finally:
            self._welcome_others(arrivals)

    def _ask_for_pods(self, deployment: Deployment) -> bool:
        """Have what was asked for be there or on its way; return whether it is more or less than workers."""
        present = deployment.count()
        if present is None or dataclasses.replace(self._wanted, workers=None) != Wanted():
            deployment.apply(self._wanted, jupyter=False)
            return True
        if self._wanted.workers not in (None, present):
            deployment.api.scale(WORKER, lambda _: self._wanted.workers or 0)
        return False

    def _await_scheduler(self, deployment: Deployment, is_changed: bool, deadline: float, timeout: float) -> None:
        """Wait until the scheduler is ready; if it was changed, the new one, for then the one that is there ends."""
        while (is_changed and not deployment.is_rolled_out("scheduler")) or not self._note_scheduler(
            deployment.pods("scheduler")
        ):
            if time.monotonic() > deadline or deployment.is_hopeless("scheduler"):
                why = deployment.explain("scheduler") or "give it more time: addprocs(..., timeout=600)"
                raise LaunchError(f"the scheduler has not come up in {timeout:g} s: {why}")
            time.sleep(_INTERVAL)

    def _note_scheduler(self, pods: list[Document]) -> bool:
        """Take note of the pods of the scheduler; return whether one is ready."""
        with self._lock:
            self._pods |= {name_of(pod): pod for pod in pods}
        return any(map(is_ready, pods))

    def _join_dask(self, deployment: Deployment, offer: Offer, deadline: float) -> Iterator[Launched | LaunchError]:
        """Join the Dask cluster that the pods make, and yield its workers that are there."""
        from ..dask import Dask, make_security

        access = deployment.access
        if access.is_inside:
            address = f"tls://{SCHEDULER}.{access.namespace}:{SCHEDULER_PORT}"
        else:
            local = deployment.forwards.open(self._find_scheduler, SCHEDULER_PORT)
            address = f"tls://{_LOOPBACK}:{local}"
        security = make_security(_find_certificate(deployment))
        self._dask = Dask(address, security=security, listen=() if access.is_inside else (_LOOPBACK,))
        self._dask.watch(self._lost)
        self._dask.follow(self._came)
        self._await_port(deployment, self._dask, deadline)
        try:
            left = max(1.0, deadline - time.monotonic())
            yield from self._dask.launch(dataclasses.replace(offer, timeout=left))
        except LaunchError as error:
            failure = deployment.forwards.failure
            raise LaunchError(
                f"{error}. The way through the API server: {failure}" if failure else f"{error}"
            ) from error

    def _await_port(self, deployment: Deployment, dask: "Dask", deadline: float) -> None:
        """Wait until the scheduler listens, which it may do a moment after its pages say that its pod is ready.

        Return in any case: it is ``launch`` that says what is wrong.
        """
        while time.monotonic() < deadline:
            try:
                return dask.knock(_KNOCK)
            except OSError:
                failure = deployment.forwards.failure
            if isinstance(failure, ApiError) and 400 <= failure.code < 500:
                return  # nobody will let us in
            time.sleep(_INTERVAL)

    def _find_scheduler(self) -> str:
        """Return where the API server has the ports of the scheduler's pod."""
        assert self._deployment is not None
        with self._lock:
            names = [name for name, pod in self._pods.items() if is_of(pod, "scheduler") and is_ready(pod)]
        if not names:
            raise OSError("the scheduler's pod is not ready")
        return self._deployment.path_to_ports(names[0])

    def stop(self, worker: Launched, *, force: bool) -> None:
        member = self._members.get(str(worker.key))
        if member is not None and self._dask is not None:
            self._dask.stop(member.theirs, force=force)

    def retire(self, worker: Launched) -> None:
        """Have Dask close a worker, and the Deployment have one pod less: that one, for it is not ready any more."""
        if self._dask is None or self._deployment is None:
            return
        self._dask.retire(worker)
        deadline = time.monotonic() + _NOT_READY
        while time.monotonic() < deadline and is_ready(self._pods.get(worker.host, {"metadata": {}})):
            time.sleep(_INTERVAL / 10)
        self._deployment.api.scale(WORKER, lambda count: max(0, count - 1))

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self._exits.watch(on_exit)

    def follow(self, on_arrival: Callable[[Launched], None]) -> None:
        self._on_arrival.append(on_arrival)

    def close(self) -> None:
        self._on_arrival.clear()
        dask, self._dask = self._dask, None
        if dask is not None:
            dask.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # Who comes

    def _came(self, theirs: Launched) -> None:
        """A worker has come of which Dask tells; its thread."""
        with self._lock:
            if self._arrivals is not None:
                self._arrivals.put(theirs)
                return
        mine = self._place(theirs)
        for on_arrival in list(self._on_arrival):
            on_arrival(mine)

    def _welcome_others(self, arrivals: "queue.SimpleQueue[Launched]") -> None:
        """Have those follow who come from now on, and those for whom ``launch`` did not wait."""
        with self._lock:
            self._arrivals = None
        while not arrivals.empty():
            self._came(arrivals.get())

    def _place(self, theirs: Launched) -> Launched:
        """Return a worker with an address at which we can dial it, and keep it in the books."""
        deployment = self._deployment
        assert deployment is not None
        address = str(theirs.key)
        pod = self._find_pod(urlsplit(address).hostname)
        name, restarts = (name_of(pod), restarts_of(pod)) if pod is not None else ("", 0)
        local, outer, inner = None, theirs.address, None
        if pod is not None and not deployment.access.is_inside:
            # It listens on its loopback for those who come so.
            inner, _, port = theirs.address.rpartition(f" tls:{_LOOPBACK}:")
            local = deployment.forwards.open(lambda: deployment.path_to_ports(name), int(port))
            outer = f"tls:{_LOOPBACK}:{local}"
        mine = dataclasses.replace(
            theirs, address=outer, inner_address=inner, host=name or theirs.host, news_takes=_NEWS_TAKE
        )
        with self._lock:
            self._members[address] = _Member(mine, theirs, name, restarts, local)
        return mine

    def _find_pod(self, host: str | None) -> Document | None:
        """Return the pod that has an address; None if there is none of ours. The news of it may not have come yet."""
        assert self._deployment is not None
        with self._lock:
            known = [pod for pod in self._pods.values() if address_of(pod) == host]
        return next(iter(known or [pod for pod in self._deployment.pods("worker") if address_of(pod) == host]), None)

    # Who goes, and why

    async def _watch(self, connection: Connection, path: str) -> None:
        try:
            await watch(connection, path, select(), self._changed)
        except ApiError as error:
            sys.stderr.write(f"farcall: of workers that end only Dask will say why: {error}\n")

    def _changed(self, kind: str, pod: Document) -> None:
        """Take note of what has become of a pod; the connection's thread."""
        name = name_of(pod)
        with self._lock:
            if kind == "DELETED":
                self._pods.pop(name, None)
            else:
                self._pods[name] = pod
            members = [each for each in self._members.values() if each.pod == name]
        for each in members:
            why = None
            if each.reason is not None:  # Dask has lost it; what else ends may have been the one before it in the pod
                why = why_ended(pod, each.restarts) or why_leaving(pod)
            if kind == "DELETED":
                why = why or why_deleted(pod)
            if why is not None:
                self._report(each, why)

    def _lost(self, theirs: Launched, reason: str) -> None:
        """Dask has lost a worker: the status of its pod says why, now or soon; Dask's thread."""
        with self._lock:
            member = self._members.get(str(theirs.key))
            pod = self._pods.get(member.pod) if member is not None else None
            if member is not None:
                member.reason = reason
        if member is None:
            return
        why = None if pod is None else why_ended(pod, member.restarts) or why_leaving(pod)
        if why is not None or pod is None or reason == _REMOVED or self._connection is None:
            self._report(member, reason if reason == _REMOVED else why or reason)
        else:
            self._connection.start(self._report_soon(member))

    async def _report_soon(self, member: _Member) -> None:
        await asyncio.sleep(_NEWS_TAKE)
        self._report(member, member.reason or "")

    def _report(self, member: _Member, reason: str) -> None:
        with self._lock:
            known = self._members.pop(str(member.theirs.key), None) is member
        if not known:
            return
        if member.local is not None and self._deployment is not None:
            self._deployment.forwards.withdraw(member.local)
        self._exits.report(member.mine, reason)


def _find_certificate(deployment: Deployment) -> Certificate:
    """Return what all show each other: in a pod of ours it is there as files, elsewhere the Secret is read."""
    names = "ca.crt", "tls.crt", "tls.key"
    if deployment.access.is_inside and all((_MOUNTED / name).exists() for name in names):
        ca, certificate, key = (str(_MOUNTED / name) for name in names)
        return ca, certificate, key
    secret = deployment.api.find("Secret", TLS)
    if secret is None:
        raise LaunchError(f"the Secret {TLS} is not there: farcall deploy kubernetes makes it")
    ca, certificate, key = (base64.b64decode(secret["data"][name]).decode() for name in names)
    return ca, certificate, key
