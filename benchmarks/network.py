"""Several hosts on this machine, for benchmarks: those of the tests, and what is compared with farcall there."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from hosts import Host, Hosts, cpu_groups, missing, set_quota

__all__ = ["Host", "Hosts", "cpu_groups", "echo_on", "missing", "running_on", "set_quota", "sink_on"]

_LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""

_ECHO = """
while data := connection.recv(65536):
    connection.sendall(data)
"""

_SINK = """
size = int(sys.argv[2])
buffer = memoryview(bytearray(size))
while True:
    left = size
    while left:
        got = connection.recv_into(buffer[-left:])
        if not got:
            sys.exit()
        left -= got
    connection.sendall(b"x")
"""


@contextmanager
def running_on(host: Host, command: list[Any], **streams: int) -> Iterator["subprocess.Popen[str]"]:
    """Run a Python program on a host for the block."""
    with host.popen([sys.executable, *command], **streams) as process:
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@contextmanager
def _connected(host: Host, code: str, *arguments: object) -> Iterator[socket.socket]:
    """Yield a connection to a program on a host."""
    with (
        running_on(host, ["-I", "-c", _LISTEN + code, host.address, *arguments], stdout=subprocess.PIPE) as process,
        closing(socket.create_connection((host.address, int(process.stdout.readline())))) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@contextmanager
def echo_on(host: Host, message: bytes) -> Iterator[Callable[[], None]]:
    """Yield a function that sends a message to a host by TCP and reads it back; both sides block."""
    with _connected(host, _ECHO) as connection:

        def echo() -> None:
            connection.sendall(message)
            connection.recv(len(message), socket.MSG_WAITALL)

        yield echo


@contextmanager
def sink_on(host: Host, data: Any) -> Iterator[Callable[[], None]]:
    """Yield a function that sends data to a host by TCP, which is read there into memory that is in use already."""
    with _connected(host, _SINK, memoryview(data).nbytes) as connection:

        def send() -> None:
            connection.sendall(data)
            assert connection.recv(1) == b"x"

        yield send
