"""Workers of a Dask cluster: Dask deploys, places, secures and watches the processes, and our messages go past it.

A plugin starts a node inside each worker that there is or will be, which says in an event of Dask where it listens.
What happens to the worker is what Dask says happens. Another plugin, in the scheduler, removes the first one when the
master has gone without a word.

``launch`` yields the workers that are there; later ones are news for ``follow``. To stop a worker is to end the node in
it: the Dask worker goes on.
"""

import asyncio
import contextlib
import importlib
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import dask
from distributed import Client, SchedulerPlugin, Security, WorkerPlugin
from distributed.comm import get_address_host, get_address_host_port  # type: ignore[attr-defined]
from distributed.core import Status

from .._errors import LaunchError
from .._types import Certificate
from .base import Engine, Launched, Offer

_GUEST = "farcall._node.guest"  # what runs there, which an engine never sees from the inside
_PATIENCE = 5.0  # seconds that Dask has for what is asked of it at the end

_BROKE = "its connection to the Dask scheduler broke"
_REASONS = {  # by what Dask's name for the cause begins with
    "handle-worker-cleanup": _BROKE,
    "worker-send-comm-fail": _BROKE,
    "send-all-comm-fail": _BROKE,
    "check-worker-ttl": "Dask has not heard of it for too long",
    "retire-workers": "Dask retired it",
    "client-restart": "Dask restarted it",
}

_ROLES = ("scheduler", "worker", "client")
_LISTENING = ("listening", "", "")

News = tuple[str, str, str]  # "here", "failed" or "gone"; Dask's address of the worker; that of the node, or why


class Dask(Engine):
    """The workers of a Dask cluster, now and later.

    ``cluster`` is the address of its scheduler, a ``distributed.Client`` or a ``Cluster``; ``security`` a
    ``distributed.Security`` for an address, if the cluster has one. farcall must be installed where the workers run.
    Our links to them need our cluster's token, which Dask carries. Where Dask's own are encrypted ours are too, with
    the same certificates, which each side checks. Those that Dask's settings name need not be given. Our processes
    listen at the address of the Dask worker, and there on the addresses of ``listen`` too.
    """

    is_elastic = True

    def __init__(self, cluster: Any, *, security: Any = None, listen: Sequence[str] = ()) -> None:
        self._cluster = cluster
        self._listen = tuple(listen)
        self._security = security if security is not None else getattr(cluster, "security", None)
        self._session = f"farcall-{secrets.token_hex(8)}"
        self._client: Any = None
        self._certificate: Certificate | None = None
        self._news: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        self._awaited: dict[str, queue.SimpleQueue[Launched | LaunchError]] = {}  # by Dask address, by ``launch``
        self._present: dict[str, Launched] = {}
        self._on_exit: list[Callable[[Launched, str], None]] = []
        self._on_arrival: list[Callable[[Launched], None]] = []

    def __repr__(self) -> str:
        return f"Dask({self._address()!r})"

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        deadline = time.monotonic() + offer.timeout
        arrivals: queue.SimpleQueue[Launched | LaunchError] = queue.SimpleQueue()
        left = self._connect(offer, arrivals)
        try:
            while left:
                try:
                    arrival = arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    try:
                        address, _ = self._awaited.popitem()
                    except KeyError:
                        continue  # the last ones are just being put there
                    arrival = LaunchError(f"the Dask worker {address} did not start within {offer.timeout:g} s")
                left -= 1
                yield arrival
        finally:
            self._awaited.clear()

    def stop(self, worker: Launched, *, force: bool) -> None:
        client = self._client
        if client is None or client.status != "running" or self._present.get(str(worker.key)) is not worker:
            return

        async def ask() -> None:  # and do not wait: a host that is gone takes its time
            with contextlib.suppress(Exception):
                await client.run(end_guest, self._session, workers=[worker.key], wait=False, on_error="ignore")

        client.loop.add_callback(ask)

    def retire(self, worker: Launched) -> None:
        self._client.retire_workers([worker.key], close_workers=True, remove=True)

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self._on_exit.append(on_exit)

    def follow(self, on_arrival: Callable[[Launched], None]) -> None:
        self._on_arrival.append(on_arrival)

    def close(self) -> None:
        client, self._client = self._client, None
        self._on_exit.clear()  # Dask may keep us alive, and we would keep the cluster
        self._on_arrival.clear()
        if client is None:
            return
        with contextlib.suppress(Exception):  # Dask is gone, or about to be
            client.sync(_unregister, client, self._session, callback_timeout=_PATIENCE)
        self._news.put(None)
        with contextlib.suppress(Exception):
            client.close(_PATIENCE)

    def _address(self) -> str:
        if isinstance(self._cluster, str):
            return self._cluster
        scheduler = getattr(self._cluster, "scheduler_address", None)
        return str(scheduler or self._cluster.scheduler.address)

    def _connect(self, offer: Offer, arrivals: "queue.SimpleQueue[Launched | LaunchError]") -> int:
        """Have a node started in each worker; return how many of them are there now, and arrive or fail."""
        if self._client is not None:
            raise LaunchError(f"{self!r} has brought its workers already: make another")
        address = self._address()
        if self._security is None and address.startswith("tls:") and dask.config.get("distributed.comm.tls.ca-file"):
            self._security = Security()  # what the settings name
        if address.startswith("tls:") and not isinstance(self._security, Security):
            how = "Dask(address, security=distributed.Security(tls_ca_file=..., ...)), or a Client that is connected"
            raise LaunchError(f"{address} is secured by TLS: give {how}")
        try:
            self.knock(offer.timeout)
            client = Client(address, security=self._security, set_as_default=False, timeout=offer.timeout)
        except (OSError, ValueError) as error:
            raise LaunchError(f"there is no Dask scheduler at {address}: {error}") from error
        self._client = client
        if address.startswith("tls:"):
            self._certificate = _find_certificate(client.security, "client")
        client.subscribe_topic(self._session, lambda event: self._news.put(event[1]))
        client.subscribe_topic("all", self._note_event)
        try:
            self._await_subscription(client, offer.timeout)
            present = client.scheduler_info(n_workers=-1)["workers"]
            self._awaited.update(dict.fromkeys(present, arrivals))
            threading.Thread(target=self._tend, name="farcall-dask", daemon=True).start()
            client.register_plugin(Janitor(self._session, client.id), name=self._session)
            plugin = Host(self._session, offer.token, offer.timeout, self._listen)
            client.register_plugin(plugin, name=self._session)
            return len(present)
        except Exception as error:
            self.close()
            raise LaunchError(f"Dask's workers could not start a node: {type(error).__name__}: {error}") from error

    def knock(self, timeout: float) -> None:
        """Raise OSError if nobody listens: a client that cannot connect leaves things behind."""
        address = self._address()
        if address.startswith("inproc:"):
            return
        with socket.create_connection(get_address_host_port(address, strict=True), timeout) as connection:
            if address.startswith("tls:"):
                assert self._security is not None
                context = self._security.get_connection_args("client")["ssl_context"]
                context.wrap_socket(connection).close()

    def _await_subscription(self, client: Any, timeout: float) -> None:
        """Wait until events reach us: a subscription takes its time, and what is said before is lost."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            client.log_event(self._session, _LISTENING)
            with contextlib.suppress(queue.Empty):
                self._news.get(timeout=0.02)
                return
        raise LaunchError("the scheduler sends no events")

    def _note_event(self, event: tuple[float, Any]) -> None:
        """Take note of what the scheduler says of any worker; on Dask's thread."""
        message = event[1]
        if isinstance(message, dict) and message.get("action") == "remove-worker":
            stimulus = str(message.get("stimulus_id", ""))
            known = next((text for name, text in _REASONS.items() if stimulus.startswith(name)), None)
            self._news.put(("gone", message["worker"], known or f"Dask removed it ({stimulus})"))

    def _tend(self) -> None:
        """Tell what happens, in the order in which it does."""
        while (news := self._news.get()) is not None:
            kind, address, text = news
            if news == _LISTENING:
                continue
            if kind == "gone":
                worker = self._present.pop(address, None)
                waiting = self._awaited.pop(address, None)
                if waiting is not None:
                    waiting.put(LaunchError(f"the Dask worker {address} is gone: {text}"))
                if worker is None:
                    continue
                for on_exit in self._on_exit:
                    on_exit(worker, text)
            else:
                self._arrived(kind, address, text)

    def _arrived(self, kind: str, address: str, text: str) -> None:
        waiting = self._awaited.pop(address, None)
        if kind == "failed":
            error = LaunchError(f"the Dask worker {address} cannot take part: {text}")
            if waiting is not None:
                waiting.put(error)
            else:
                sys.stderr.write(f"farcall: {error}\n")
            return
        worker = self._present[address] = Launched(text, key=address, certificate=self._certificate, host=address)
        if waiting is not None:
            waiting.put(worker)
        else:
            for on_arrival in self._on_arrival:
                on_arrival(worker)


class Host(WorkerPlugin):
    """Dask's plugin for workers: a node in each, as long as the plugin is registered. Any number of sessions."""

    def __init__(self, session: str, token: bytes, timeout: float, listen: Sequence[str]) -> None:
        self.session = session
        self._listen = listen
        self._token = token
        self._timeout = timeout
        self._guest: Any = None

    def setup(self, worker: Any) -> None:
        """Start a node; on the event loop of the worker, which goes on at once."""
        try:
            guests = importlib.import_module(_GUEST)
            scheme, _, _ = worker.address.partition(":")
            certificate = _find_certificate(worker.security, "worker") if scheme == "tls" else None
            hosts = () if scheme == "inproc" else (get_address_host(worker.address), *self._listen)
            listen = [f"{scheme}:{_bracket(each)}:0" for each in hosts]

            def on_end(reason: str) -> None:
                with contextlib.suppress(Exception):  # the worker is closing
                    worker.loop.add_callback(worker.log_event, self.session, ("gone", worker.address, reason))

            self._guest = guests.Guest(self._token, listen, certificate, self._timeout, on_end, worker)
        except Exception as error:
            worker.log_event(self.session, ("failed", worker.address, f"{type(error).__name__}: {error}"))
        else:
            worker.log_event(self.session, ("here", worker.address, self._guest.address))

    def teardown(self, worker: Any) -> Awaitable[None] | None:
        """End the node; if the worker closes, when it has done what it has been given. Dask waits for that."""
        reason = "its Dask worker was closed"
        if self._guest is not None and worker.status in (Status.closing, Status.closing_gracefully):
            return asyncio.to_thread(self._guest.close, reason)
        self.end(reason)
        return None

    def end(self, reason: str) -> None:
        """End the node, if it has begun."""
        if self._guest is not None:
            self._guest.end(reason)


class Janitor(SchedulerPlugin):
    """Dask's plugin for the scheduler: when the master's client is gone, its plugins go too."""

    def __init__(self, session: str, client: str) -> None:
        self._session = session
        self._client = client

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Clean up after our client; on the event loop of the scheduler."""
        if client == self._client:
            scheduler.loop.add_callback(self._clean, scheduler)

    async def _clean(self, scheduler: Any) -> None:
        with contextlib.suppress(Exception):
            await scheduler.unregister_worker_plugin(comm=None, name=self._session)
        with contextlib.suppress(Exception):
            await scheduler.unregister_scheduler_plugin(name=self._session)


def make_security(certificate: Certificate) -> Security:
    """Return what Dask takes to speak TLS, in any role, as somebody with this certificate."""
    ca, own, key = certificate
    roles = {f"tls_{role}_{what}": value for role in _ROLES for what, value in (("cert", own), ("key", key))}
    return Security(tls_ca_file=ca, require_encryption=True, **roles)


def _find_certificate(security: Any, role: str) -> Certificate:
    """Return what Dask shows its peers in a role; ValueError if it has nothing."""
    held = security.get_tls_config_for_role(role)
    if not held["ca_file"] or not held["cert"]:
        raise ValueError(f"Dask's Security has no CA or no certificate for the role of a {role}: give both")
    return held["ca_file"], held["cert"], held["key"]


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def end_guest(session: str, dask_worker: Any = None) -> None:
    """End the node of a session in a Dask worker; runs there."""
    plugin = dask_worker.plugins.get(session)
    if plugin is not None:
        plugin.end("it was removed")


async def _unregister(client: Any, session: str) -> None:
    client.unsubscribe_topic("all")
    client.unsubscribe_topic(session)
    await client.scheduler.unregister_worker_plugin(name=session)
    await client.scheduler.unregister_scheduler_plugin(name=session)
