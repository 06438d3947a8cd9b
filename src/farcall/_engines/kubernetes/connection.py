"""A connection to an API server: requests, on one thread with an event loop; who asks on another one is blocked."""

import asyncio
import contextlib
import json
import selectors
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp

from ..._errors import LaunchError
from .access import Access

T = TypeVar("T")

BUSY = (429, 500, 502, 503, 504)  # what may be over in a moment
GONE = 410  # what is asked for was long ago, and is forgotten

_PAUSES = (0.2, 1.0)  # seconds before it is tried again
_AT_MOST = aiohttp.ClientTimeout(total=30, sock_connect=10)
_FAREWELL = 1.0  # seconds that the other sides have to say theirs, which TLS does
_BUFFER = 1 << 22  # bytes that a line of an answer may have
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class ApiError(LaunchError):
    """The API server did not do what it was asked for. ``code`` is that of HTTP, 0 if the server was not reached."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Connection:
    """A way to an API server that is open until ``close``. Any thread, but for what is a coroutine."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._session: Any = None
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps none alive
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._serve, name="farcall-kubernetes", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Connection to {self.access.url}>"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine does on the thread of the connection. An interrupt cancels it."""
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Have a coroutine run until its end, or that of the connection, after which it does not begin."""
        try:
            self._loop.call_soon_threadsafe(self._start, coroutine)
        except RuntimeError:
            coroutine.close()

    def request(self, method: str, path: str, **details: Any) -> Any:
        """Return the JSON of an answer. See ``ask``."""
        return json.loads(self.run(self.ask(method, path, **details)))

    def close(self) -> None:
        """End all that goes over it. Again is no error."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> str:
        """Return the text of an answer; ApiError if there is none, or the server refuses. It may be asked again."""
        data = None if body is None else json.dumps(body)
        for pause in (*_PAUSES, None):
            try:
                async with self.send(method, path, query or {}, data=data, content=content) as answer:
                    return await answer.text()
            except ApiError as error:
                if pause is None or (error.code and error.code not in BUSY):
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("not reached")

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        data: str | None = None,
        content: str = "application/json",
        timeout: aiohttp.ClientTimeout = _AT_MOST,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an answer. ApiError also if the connection breaks while it is read."""
        headers = {"Content-Type": content, **await self._authorize()}
        url, options = self.access.url + path, self._options()
        try:
            async with self._session.request(
                method, url, params=query, data=data, headers=headers, timeout=timeout, **options
            ) as answer:
                if answer.status >= 400:
                    raise self._explain(answer.status, f"{method} {path}", await answer.text())
                yield answer
        except _FAILURES as error:
            where = f"the API server {self.access.url} cannot be reached ({str(error) or type(error).__name__})"
            raise ApiError(f"{where}: `kubectl version` with the same kubeconfig may say more", 0) from error

    async def open_websocket(
        self, path: str, query: Mapping[str, str], protocol: str
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a WebSocket, whose messages may have any length. ApiError."""
        url, headers = self.access.url + path, await self._authorize()
        try:
            opened: aiohttp.ClientWebSocketResponse = await self._session.ws_connect(
                url, params=query, protocols=(protocol,), headers=headers, max_msg_size=0, **self._options()
            )
        except aiohttp.WSServerHandshakeError as error:
            raise self._explain(error.status, f"GET {path}", "") from error
        except _FAILURES as error:
            raise ApiError(f"the API server {self.access.url} cannot be reached ({error})", 0) from error
        return opened

    async def read(self, url: str) -> Any:
        """Return the JSON of any other server, to which no proxy leads. OSError."""
        try:
            async with aiohttp.ClientSession(timeout=_AT_MOST) as session, session.get(url) as answer:
                return json.loads(await answer.text())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise OSError(str(error)) from error

    # The thread's

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(trust_env=True, read_bufsize=_BUFFER)

    async def _end(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()
        deadline = self._loop.time() + _FAREWELL
        while len(self._selector.get_map()) > 1 and self._loop.time() < deadline:  # one is the loop's own
            await asyncio.sleep(_FAREWELL / 200)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _authorize(self) -> Mapping[str, str]:
        """Return who we are; a program of the kubeconfig's may have to be asked, which takes its time."""
        return await self._loop.run_in_executor(None, self.access.authorize)

    def _options(self) -> dict[str, Any]:
        access = self.access
        return {"ssl": access.tls or True, "server_hostname": access.server_name, "proxy": access.proxy}

    def _explain(self, code: int, request: str, text: str) -> ApiError:
        """Return what the server said and what to do about it."""
        try:
            said = str(json.loads(text)["message"])
        except (ValueError, KeyError, TypeError):
            said = text.strip() or f"no to {request}"
        namespace = self.access.namespace
        if code == 401:
            how = "log in again, as for kubectl: kubectl auth whoami"
        elif code == 403:
            how = f"ask whoever runs the cluster; `kubectl auth can-i --list -n {namespace}` says what you may do"
        elif code == 404 and said.startswith("namespaces "):
            how = f"kubectl create namespace {namespace}, or name another: namespace= (--namespace)"
        elif code == 404 and said.startswith("the server could not find the requested resource"):
            how = f"the cluster is older than Kubernetes 1.21: {request}"
        elif code == 409:
            how = "somebody else changes it at the same time: do this again"
        elif code in BUSY:
            how = "the server has trouble of its own: do this again later, which is safe"
        else:
            how = f"it was asked for {request}"
        return ApiError(f"the API server said {code} (namespace {namespace}): {said}: {how}", code)
