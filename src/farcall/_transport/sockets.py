"""Unix and TCP sockets.

Addresses: ``unix:@name`` (no file; Linux keeps such names in the network namespace, and they vanish with their
process however it dies), ``unix:/path``, ``tcp:host:port``. A peer on a Unix socket must be of the same user.
"""

import contextlib
import errno
import os
import secrets
import socket
import struct
import sys
from collections.abc import Sequence

from .base import Listener, Transport

_MOST_PARTS = 512  # of one sendmsg; IOV_MAX is 1024


class SocketTransport(Transport):
    """A connected stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = make_prompt(connection)
        self.receive_into = connection.recv_into  # type: ignore[method-assign]  # the hot path: no frame between

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive_into(self, buffer: memoryview) -> int:
        return self._socket.recv_into(buffer)

    def send(self, parts: Sequence[bytes | memoryview]) -> int:
        if len(parts) == 1:
            return self._socket.send(parts[0])
        return self._socket.sendmsg(parts[:_MOST_PARTS])

    def watch_host(self, patience: float) -> bool:
        return watch_host(self._socket, patience)

    def is_forsaken(self, patience: float) -> bool:
        return is_forsaken(self._socket, patience)

    def break_off(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # never connected, or closed by the peer already
        self._socket.close()


class SocketListener(Listener):
    """A listening socket; ``address`` is what a peer dials.

    With ``advertise``, a host, it names that and not the host that the socket is bound to, say 0.0.0.0.
    """

    def __init__(self, address: str | None = None, *, advertise: str | None = None, stream: str = "tcp") -> None:
        self._socket, self.address = _bind(address or private_address(), advertise, stream)
        self._socket.listen(128)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Transport:
        return SocketTransport(self.accept_socket())

    def accept_socket(self) -> socket.socket:
        """Do what ``accept`` does, and return the bare connection."""
        connection, _ = self._socket.accept()
        user = _peer_user(connection)
        if user is not None and user not in (os.geteuid(), 0):
            connection.close()
            raise PermissionError(f"user {user} tried to connect to {self.address}")
        return connection

    def close(self) -> None:
        self._socket.close()
        if self.address.startswith("unix:/"):
            try:
                os.unlink(self.address.removeprefix("unix:"))
            except FileNotFoundError:
                pass


def private_address() -> str:
    """Return a fresh address that only processes of this machine can dial."""
    if sys.platform == "linux":
        return f"unix:@farcall-{secrets.token_hex(12)}"
    return "tcp:127.0.0.1:0"


def dial(address: str, timeout: float = 10.0) -> Transport:
    """Return a connection to a listener. Blocks up to ``timeout`` seconds; OSError names the address."""
    return SocketTransport(connect(address, timeout))


def connect(address: str, timeout: float, stream: str = "tcp") -> socket.socket:
    """Do what ``dial`` does, and return the bare connection; ``stream`` is what addresses of a port begin with."""
    family, where = _parse(address, stream)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(where)
        owner = _peer_user(connection)
        if owner is not None and os.geteuid() not in (owner, 0):
            raise PermissionError(errno.EPERM, f"user {owner} listens there, and would not let us in")
    except OSError as error:
        connection.close()
        raise OSError(error.errno, f"cannot connect to {address}: {error.strerror or error}") from error
    return connection


def make_prompt(connection: socket.socket) -> socket.socket:
    """Have a connection never block, and send small messages at once."""
    connection.setblocking(False)
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def watch_host(connection: socket.socket, patience: float) -> bool:
    """Do what ``Transport.watch_host`` does: probe an idle connection; on a busy one what was sent is a probe."""
    if connection.family == socket.AF_UNIX or connection.getpeername()[0] in ("127.0.0.1", "::1"):
        return False
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform != "linux":
        return False
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(patience / 2)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(patience / 4)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    return True


def is_forsaken(connection: socket.socket, patience: float) -> bool:
    """Whether TCP has repeated in vain what it sent, for so many seconds.

    Not TCP_USER_TIMEOUT, which also breaks the connection to a host that answers, but whose process does not read for
    a while: any long computation that keeps the interpreter's lock. A repetition comes after twice the time of the one
    before, so the time to the next is about the time since the first.
    """
    try:
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 12)
    except OSError:
        return False  # it is closed already
    repeated, pause = state[2], int.from_bytes(state[8:12], sys.byteorder) / 1e6
    return repeated > 1 and pause > patience / 2


def _parse(address: str, stream: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest:
        return socket.AF_UNIX, "\0" + rest[1:] if rest[0] == "@" else rest
    host, _, port = rest.rpartition(":")
    if scheme == stream and host and port.isdigit():
        host = host.strip("[]")
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
    raise ValueError(f"{address!r} is no address; write unix:@name, unix:/path or {stream}:host:port")


def _bind(address: str, advertise: str | None, stream: str) -> tuple[socket.socket, str]:
    family, where = _parse(address, stream)
    if advertise is not None and (family == socket.AF_UNIX or not advertise):
        raise ValueError(f"{address} cannot be advertised as {advertise!r}: only a host can stand for another host")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    if family == socket.AF_UNIX:
        return listener, address
    host, port = listener.getsockname()[:2]
    host = advertise.strip("[]") if advertise else host
    return listener, f"{stream}:[{host}]:{port}" if ":" in host else f"{stream}:{host}:{port}"


def _peer_user(connection: socket.socket) -> int | None:
    """Return the user at the other end of a Unix socket; None where the system does not tell."""
    if connection.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    user: int = struct.unpack("3i", credentials)[1]
    return user
