"""How links begin and, if nobody says so, end: who dials, who is let in, who passes on, and which host is silent.

The master dials each worker when that joins. Workers dial each other when they have something to say. Where one does
not reach another it asks the master, which connects to both and passes on what they say (see ``relay``): it dials the
one that asked and tells it to take this connection for one that it has dialled itself.

Threads: whoever needs a link dials it, with a lock for each peer. Those who knock are talked to on the pool's threads.
"""

import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import AuthenticationError, ProcessExited
from .._transport import handshake
from .._transport.addresses import join_addresses
from .._transport.base import Listener, Transport
from .._transport.shm import Probe, can_read
from .._types import ProcessId
from .._version import __version__
from .._wire import pickles
from .current import current_node
from .link import Link
from .peers import Peer, Peers
from .relay import Relay
from .slots import Slot

if TYPE_CHECKING:
    from .node import Node

GRACE = 1.0  # seconds between the end of a connection and the news of its process, or the other way round
_DETOUR = 3.0  # seconds after which a worker that does not answer another one is reached through the master

Dial = Callable[[str, float], Transport]


class Connections:
    """The beginnings of all links of a node. Any thread."""

    def __init__(self, node: "Node", token: bytes, dial: Dial, listeners: Sequence[Listener]) -> None:
        self.dial = dial
        self.address = join_addresses(listeners)  # where this process can be dialled, empty if it only dials
        self._node = node
        self._token = token
        self._listeners = listeners
        self._probe = Probe()
        self._routes: dict[ProcessId, str] = {}  # where we have dialled whom
        self._dialling: dict[ProcessId, threading.Lock] = {}
        self._passed_on: dict[ProcessId, Slot] = {}  # who waits for a connection through the master
        self._relay: Relay | None = None  # the master's
        self._lock = threading.Lock()  # guards the beginning of the relay and of the watch
        self._watching: threading.Thread | None = None
        self._unwatched = threading.Event()

    def __repr__(self) -> str:
        return f"<Connections of {self._node.pid}, which listens at {self.address or 'nothing'}>"

    # Dialling

    def connect(self, address: str, pid: ProcessId, timeout: float | None = None) -> Peer:
        """Dial a process, agree on who is who, and return what it says of itself; its calls go over this link."""
        limit = self._node.config.handshake_timeout if timeout is None else timeout
        transport = self.dial(address, limit)
        self._routes[pid] = address
        return Peer(pid, address, *self._introduce(transport, pid, limit))

    def _introduce(self, transport: Transport, pid: ProcessId, limit: float) -> tuple[str, int]:
        """Say who we are to somebody who was dialled, and begin the link; return the host and the process there."""
        hello = handshake.perform(transport, handshake.dialler_steps(self._token, self._hello(pid)), limit)
        self._begin(transport, hello, pid)
        return hello["host"], hello["process"]

    def _hello(self, you: ProcessId = 0) -> dict[str, Any]:
        return {
            "versions": _versions(),
            "me": self._node.pid,
            "you": you,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "probe": [self._probe.descriptor, self._probe.secret.hex()],
        }

    def link_to(self, pid: ProcessId) -> Link:
        """Return the link to a process, dialled now if there is none. ProcessExited, ValueError as in ``Peers``."""
        links = self._node.links
        link = links.get(pid)
        if link is not None:
            return link
        peer = self._node.peers.get(pid)
        with self._dialling.setdefault(pid, threading.Lock()):
            if pid not in links:
                try:
                    self._reach(peer)
                except (OSError, AuthenticationError) as error:
                    if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
                        raise
                    self._await_exit(pid)
                    reason = self._node.peers.reason(pid)
                    raise ProcessExited(pid, reason or f"it cannot be reached: {error}") from None
            return links[pid]

    def _reach(self, peer: Peer) -> None:
        """Dial a process, or have the master connect us."""
        limit = self._node.config.handshake_timeout
        if 1 in (self._node.pid, peer.pid):
            self.connect(self._routes.get(peer.pid, peer.address), peer.pid)
            return
        if peer.address:
            try:
                self.connect(peer.address, peer.pid, min(limit, _DETOUR))
                return
            except (OSError, AuthenticationError):
                pass  # a firewall, other certificates, another process at that address; the master says if it is gone
        slot = self._passed_on[peer.pid] = Slot()
        try:
            self._node.ask(1, pass_on, self._node.pid, peer.pid)
            self._node.reader.wait(slot, None, time.monotonic() + limit)
            slot.outcome()
        finally:
            del self._passed_on[peer.pid]

    def _await_exit(self, pid: ProcessId) -> None:
        """Give the news of an exit a moment to arrive."""
        with self._node.members_changed:
            patience = self._node.patience(pid)
            self._node.members_changed.wait_for(lambda: self._node.peers.reason(pid) is not None, patience)

    # Being dialled

    def accept(self, listener: Listener) -> None:
        """Let a thread talk to whoever knocks; the leader's thread."""
        try:
            transport = listener.accept()
        except OSError:
            return  # it has gone again, or may not come in
        self._node.pool.run(self._welcome, transport)

    def _welcome(self, transport: Transport) -> None:
        steps = handshake.listener_steps(self._token, self._hello())
        try:
            hello = handshake.perform(transport, steps, self._node.config.handshake_timeout)
            if "leads_to" in hello:
                self._begin_passed_on(transport, hello["leads_to"])
                return
            if hello["me"] == 1 and self._node.pid == 0:
                self._take_pid(hello["you"])
            self._begin(transport, hello, hello["me"])
        except Exception:
            transport.close()  # the dialler has the error; here it is of no use to anybody

    def _take_pid(self, pid: ProcessId) -> None:
        """Be told by the master who we are, which is the first thing that it tells."""
        self._node.pid = pid
        self._node.peers = Peers()
        self._node.peers.add(self._node.describe())

    def _begin(self, transport: Transport, hello: dict[str, Any], pid: ProcessId) -> None:
        """Find out whether memory can be shared, and have the link read."""
        node = self._node
        descriptor, secret = hello["probe"]
        can = can_read(hello["process"], descriptor, bytes.fromhex(secret))
        shares = handshake.exchange_flag(transport, can, node.config.handshake_timeout)
        link = Link(transport, pid, hello["process"], shares and can, node.segments, node.config)
        if node.closed:
            link.dispose()
            raise AuthenticationError("this process is leaving the cluster")
        node.links.setdefault(pid, link)
        node.reader.add(link)
        if transport.watch_host(node.config.heartbeat):
            self._watch()

    # Passing on

    def pass_on(self, asker: ProcessId, pid: ProcessId) -> None:
        """Connect two workers through this process, the master. OSError if one does not answer, ProcessExited."""
        limit = self._node.config.handshake_timeout
        self._node.peers.get(pid)
        there = self.dial(self._routes[pid], limit)
        try:
            here = self.dial(self._routes[asker], limit)
            hello = self._hello(asker) | {"leads_to": pid}
            handshake.perform(here, handshake.dialler_steps(self._token, hello), limit)
        except BaseException:
            there.close()
            raise
        with self._lock:
            if self._relay is None:
                self._relay = Relay()
        self._relay.join(here, there)

    def _begin_passed_on(self, transport: Transport, pid: ProcessId) -> None:
        """Speak to a worker over a connection that the master has made, as if we had dialled it."""
        slot = self._passed_on.get(pid)
        if slot is None:
            raise AuthenticationError("nobody waits for it any more")
        try:
            self._introduce(transport, pid, self._node.config.handshake_timeout)
        except Exception as error:
            slot.finish(None, error)
            raise
        slot.finish(None, None)

    # Ends

    def _watch(self) -> None:
        with self._lock:
            if self._watching is None:
                self._watching = threading.Thread(target=self._look_around, name="farcall-watch", daemon=True)
                self._watching.start()

    def _look_around(self) -> None:
        """Give up links whose host has been silent. One that is idle TCP gives up itself."""
        patience = self._node.config.heartbeat
        while not self._unwatched.wait(patience / 4):
            for link in list(self._node.reader.links):
                if link.transport.is_forsaken(patience):
                    self._node.exited(link.pid, f"its host has not answered for {patience:g} s")
                    link.transport.break_off()

    def close(self) -> None:
        """Let nobody in any more, and pass nothing on."""
        for listener in self._listeners:
            listener.close()
        self._unwatched.set()
        if self._watching is not None:
            self._watching.join()
        if self._relay is not None:
            self._relay.close()
        self._probe.close()


def pass_on(asker: ProcessId, pid: ProcessId) -> None:
    """Connect two workers that do not reach each other; runs on the master."""
    current_node().connections.pass_on(asker, pid)


def _versions() -> dict[str, str]:
    """Return what must be equal on both sides of a link. NumPy is looked up, not imported."""
    return {
        "farcall": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "pickle": str(pickles.PROTOCOL),
        "numpy": _numpy_version(),
    }


def _numpy_version() -> str:
    """Return the version of NumPy that an import would give, empty if none."""
    loaded = sys.modules.get("numpy")
    if loaded is not None:
        return str(getattr(loaded, "__version__", ""))
    spec = find_spec("numpy")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return ""
    found = re.search(r"^(?:short_)?version = [\"']([^\"']+)", text, re.MULTILINE)
    return found[1] if found else ""
