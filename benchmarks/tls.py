"""What TLS costs: ``python benchmarks/tls.py`` prints each quantity, its goal, and whether that is met.

Everything is between two processes over loopback TCP: messages and transfers by the transports alone, beside what a
plain blocking ``ssl`` socket does with the same certificate, and calls of farcall. The baseline of a ratio takes
turns with what is compared to it, and each counts with its median over the rounds. ``--quick``: fewer rounds.
"""

import argparse
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from baselines import clock, interleave, mean_time, placed
from report import Row, at_most, bandwidth, run

import farcall as fc
from farcall._config import read_config
from farcall._node.current import set_process_node
from farcall._node.node import Node
from farcall._transport.base import Listener, Transport
from farcall._transport.credentials import Credentials
from farcall._transport.tls import dialler

_MESSAGE = bytes(100)
_LARGE = 80_000_000
_CHUNK = 1 << 18
_TOKEN = bytes(32)

_PEER = """
import os, sys
sys.path[:0] = [{here!r}]
from farcall._transport.credentials import Credentials
import tls
kind, *credentials = sys.argv[1:]
getattr(tls, "serve_" + kind)(Credentials(*credentials))
"""


# What the other process does


def serve_tls(credentials: Credentials) -> None:
    """Answer on one TLS transport."""
    from farcall._transport.tls import TlsListener

    listener = TlsListener(credentials, "tls:127.0.0.1:0")
    print(listener.address, flush=True)
    _wait(listener.fileno(), select.POLLIN)
    transport = listener.accept()
    transport.shake_hands(10)
    _serve(partial(_receive, transport), partial(_send, transport))


def serve_tcp(credentials: Credentials) -> None:
    """Answer on one TCP transport."""
    from farcall._transport.sockets import SocketListener

    listener = SocketListener("tcp:127.0.0.1:0")
    print(listener.address, flush=True)
    _wait(listener.fileno(), select.POLLIN)
    transport = listener.accept()
    _serve(partial(_receive, transport), partial(_send, transport))


def serve_ssl(credentials: Credentials) -> None:
    """Answer on one blocking ``ssl`` socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"tls:127.0.0.1:{server.getsockname()[1]}", flush=True)
        connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secure = credentials.listening.wrap_socket(connection, server_side=True)
    _serve(secure.recv_into, secure.sendall)


def serve_node_tls(credentials: Credentials) -> None:
    """Be a worker that listens for TLS."""
    from farcall._transport.tls import TlsListener

    _be_worker(TlsListener(credentials, "tls:127.0.0.1:0"))


def serve_node_tcp(credentials: Credentials) -> None:
    """Be a worker that listens for TCP."""
    from farcall._transport.sockets import SocketListener

    _be_worker(SocketListener("tcp:127.0.0.1:0"))


def _be_worker(listener: Listener) -> None:
    from farcall._node.worker import serve
    from farcall._transport.sockets import dial

    node = Node(0, _TOKEN, read_config(), dial=dial, listeners=[listener], leads_on_main=True)
    print(listener.address, flush=True)
    serve(node, 60.0)


def _serve(receive_into: Callable[[memoryview], int], send: Callable[[bytes], object]) -> None:
    """Send back each message; after an announcement read so many bytes, and say so."""
    buffer = memoryview(bytearray(_CHUNK))
    while size := receive_into(buffer):
        if size == 8:
            left = int.from_bytes(buffer[:8], "big")
            send(b"x")
            while left:
                left -= receive_into(buffer)
            send(b"x")
        else:
            send(bytes(buffer[:size]))


# This process


def noop() -> None:
    """Do nothing."""


def _wait(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()


def _receive(transport: Transport, buffer: memoryview) -> int:
    while True:
        try:
            return transport.receive_into(buffer)
        except BlockingIOError:
            _wait(transport.fileno(), select.POLLIN)


def _send(transport: Transport, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[transport.send([rest]) :]
        except BlockingIOError:
            _wait(transport.fileno(), select.POLLOUT)


class Connection:
    """Messages and transfers to a process that answers."""

    def __init__(self, receive_into: Callable[[memoryview], int], send: Callable[[bytes], object]) -> None:
        self._receive_into = receive_into
        self._send = send
        self._buffer = memoryview(bytearray(_CHUNK))
        self._data = bytes(_LARGE)

    def echo(self) -> None:
        """Send a message and read it back."""
        self._send(_MESSAGE)
        assert self._receive_into(self._buffer) == len(_MESSAGE)

    def transfer(self) -> float:
        """Return the seconds of 80 MB and one byte as their receipt."""
        started = clock()
        self._send(len(self._data).to_bytes(8, "big"))
        assert self._receive_into(self._buffer) == 1  # for there are no boundaries but such
        self._send(self._data)
        assert self._receive_into(self._buffer) == 1
        return clock() - started


def make_certificate(directory: str) -> list[str]:
    """Return CA, certificate and key; the certificate is its own CA."""
    key, certificate = (str(Path(directory) / name) for name in ("key.pem", "certificate.pem"))
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=farcall"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", "-x509", "-days", "1", *options, *files], check=True, capture_output=True)
    return [certificate, certificate, key]


@contextmanager
def peer(kind: str, paths: list[str]) -> Iterator[tuple[int, str]]:
    """Start the other process, and yield its id and its address."""
    command = [sys.executable, "-c", _PEER.format(here=str(Path(__file__).parent)), kind, *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()


def measure_transports(rounds: int, paths: list[str]) -> Iterator[Row]:
    """Yield what messages and transfers take."""
    credentials = Credentials(*paths)
    with ExitStack() as stack:
        peers = {kind: stack.enter_context(peer(kind, paths)) for kind in ("tls", "tcp", "ssl")}
        connections = []
        for kind in ("tls", "tcp"):
            transport = stack.enter_context(closing(dialler(credentials)(peers[kind][1], 10.0)))
            connections.append(Connection(partial(_receive, transport), partial(_send, transport)))
        host, port = peers["ssl"][1].split(":")[1:]
        plain = socket.create_connection((host, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        blocking = stack.enter_context(credentials.dialling.wrap_socket(plain))
        connections.append(Connection(blocking.recv_into, blocking.sendall))
        cpus = sorted(os.sched_getaffinity(0))
        places = [(os.getpid(), {cpus[0]}), *[(process, {cpus[-1]}) for process, _ in peers.values()]]
        with placed(*places):
            tls, tcp, raw = interleave(rounds, *[partial(mean_time, each.echo, 1000) for each in connections])
            yield at_most("100 bytes there and back over TLS / over TCP", tls, tcp)
            yield at_most("100 bytes there and back over TLS / blocking ssl sockets", tls, raw, 1.2)
            tls, tcp, raw = interleave(rounds, *[each.transfer for each in connections])
            yield bandwidth("80 MB one way over TLS / over TCP", _LARGE, tls, tcp)
            yield bandwidth("80 MB one way over TLS / blocking ssl sockets", _LARGE, tls, raw, 0.8)


def typical_time(action: Callable[[], object], count: int) -> float:
    """Return the seconds that an action takes, the median of ``count`` in a row.

    Processes that poll for each other's answers stand still together when another program takes a processor away
    from one of them, for longer than a thousand calls take; a mean would tell more of that program.
    """
    times = []
    for _ in range(count):
        started = clock()
        action()
        times.append(clock() - started)
    return median(times)


def measure_calls(rounds: int, paths: list[str]) -> Iterator[Row]:
    """Yield what a call of farcall takes."""
    with ExitStack() as stack:
        node = Node(1, _TOKEN, read_config(), dial=dialler(Credentials(*paths)))
        stack.callback(node.close)
        set_process_node(node)
        processes = []
        for pid, kind in ((2, "node_tls"), (3, "node_tcp")):
            process, address = stack.enter_context(peer(kind, paths))
            node.peers.add(node.connections.connect(address, pid))
            processes.append(process)
        cpus = sorted(os.sched_getaffinity(0))
        places = (os.getpid(), {cpus[0]}), *[(process, {cpus[-1]}) for process in processes]
        calls = [partial(typical_time, partial(fc.remotecall_fetch, pid, noop), 500) for pid in (2, 3)]
        for call in calls:
            call()
        with placed(*places):
            tls, tcp = interleave(rounds, *calls)
            yield at_most("call and answer over TLS / over TCP, on two cores", tls, tcp, 1.5)
        tls, tcp = interleave(rounds, *calls)
        yield at_most("call and answer over TLS / over TCP, placed by the system", tls, tcp, 1.5)


def measure(rounds: int) -> Iterator[Row]:
    """Yield every row."""
    with tempfile.TemporaryDirectory() as directory:
        paths = make_certificate(directory)
        yield from measure_transports(rounds, paths)
        yield from measure_calls(rounds, paths)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    run(measure(5 if parser.parse_args().quick else 25))
