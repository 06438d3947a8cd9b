"""Ports of this machine that lead to ports of pods, through the API server: what ``kubectl port-forward`` does."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp

from .connection import ApiError, Connection

_PROTOCOL = "v4.channel.k8s.io"
_BLOCK = 1 << 17  # bytes that are passed on at once
_IDLE = 10  # seconds after which the system looks whether the server is still there
_DATA, _ERROR = 0, 1  # the channels, whose number is the first byte of each message


class Forwards:
    """Ports on the loopback of this machine, each of which leads to one on the loopback of a pod. Any thread.

    Whoever connects needs a connection to the API server of his own; ``failure`` says why the last one did not do.
    """

    def __init__(self, connection: Connection) -> None:
        self.failure: Exception | None = None
        self._connection = connection
        self._servers: dict[int, asyncio.Server] = {}  # by port
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Forwards: {len(self._servers)} ports>"

    def open(self, find_path: Callable[[], str], port: int) -> int:
        """Return a port of this machine that leads to one of a pod, which is looked for with each connection.

        ``find_path`` returns where the server has its ports, or raises OSError.
        """

        def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(find_path, port, reader, writer))
            self._tasks.add(task)  # nobody else keeps it alive
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: writer.close())

        async def listen() -> int:
            server = await asyncio.start_server(arrived, "127.0.0.1", 0, limit=_BLOCK)
            local: int = server.sockets[0].getsockname()[1]
            self._servers[local] = server
            self._connection.start(server.serve_forever())  # which closes it at the end of the connection
            return local

        return self._connection.run(listen())

    def withdraw(self, local: int) -> None:
        """Let nobody in any more at a port that ``open`` has returned. Does not wait."""

        async def close() -> None:
            server = self._servers.pop(local, None)
            if server is not None:
                server.close()

        self._connection.start(close())

    async def _serve(
        self, find_path: Callable[[], str], port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._lead(find_path(), port, reader, writer)
        except (ApiError, aiohttp.ClientError, OSError) as error:
            self.failure = error  # who has connected only sees the end

    async def _lead(self, path: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes in both directions until one side ends; then the other does."""
        async with await self._connection.open_websocket(path, {"ports": str(port)}, _PROTOCOL) as there:
            _keep_alive(there.get_extra_info("socket"))
            ways = [asyncio.ensure_future(_bring(there, writer)), asyncio.ensure_future(_take(reader, there))]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            finally:
                for each in ways:
                    each.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _bring(there: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    begun = set[int]()
    async for message in there:
        if message.type is not aiohttp.WSMsgType.BINARY:
            continue
        channel, data = message.data[0], memoryview(message.data)[1:]
        if channel not in begun:
            begun.add(channel)  # the first message of each has but the number of the port
        elif channel == _DATA:
            writer.write(data)
            await writer.drain()
        elif channel == _ERROR:
            raise OSError(bytes(data).decode(errors="replace"))


async def _take(reader: asyncio.StreamReader, there: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(_BLOCK):
        await there.send_bytes(bytes([_DATA]) + data)


def _keep_alive(connection: Any) -> None:
    """Have the system probe a connection that is idle, which routers forget, and end it when nobody answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _IDLE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
