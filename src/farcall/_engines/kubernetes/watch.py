"""Pods as they change: what the API server has told of them, without a gap."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp

from .connection import BUSY, GONE, ApiError, Connection
from .manifests import Document

Tell = Callable[[str, Document], None]

_WATCHED = 300  # seconds after which the server ends a watch, and a new one begins
_PAUSE = 1.0  # seconds before a connection that has failed is tried again
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_WATCHED + 60)


async def watch(connection: Connection, path: str, labels: str, tell: Tell) -> None:
    """Tell what happens to objects that bear some labels, and what they are like then, for ever.

    What happens is "ADDED", "MODIFIED" or "DELETED". All that are there are told as "ADDED" at the beginning, and again
    whenever the server has forgotten what we have not heard. ApiError if we may not watch.
    """
    known: dict[str, Document] = {}
    version = ""  # of what the server has told
    while True:
        try:
            if not version:
                version = await _catch_up(connection, path, labels, known, tell)
            async for kind, each in _events(connection, path, labels, version):
                version = each["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    known.pop(each["metadata"]["uid"], None)
                elif kind != "BOOKMARK":
                    known[each["metadata"]["uid"]] = each
                if kind != "BOOKMARK":
                    tell(kind, each)
        except ApiError as error:
            if error.code == GONE:
                version = ""
            elif error.code and error.code not in BUSY:
                raise
            else:
                await asyncio.sleep(_PAUSE)


async def _catch_up(connection: Connection, path: str, labels: str, known: dict[str, Document], tell: Tell) -> str:
    """Tell what has happened while nobody watched; return up to when."""
    found = json.loads(await connection.ask("GET", path, query={"labelSelector": labels}))
    present = {each["metadata"]["uid"]: each for each in found["items"]}
    for uid in [each for each in known if each not in present]:
        tell("DELETED", known.pop(uid))
    for uid, each in present.items():
        known[uid] = each
        tell("ADDED", each)
    return str(found["metadata"]["resourceVersion"])


async def _events(connection: Connection, path: str, labels: str, version: str) -> AsyncIterator[tuple[str, Document]]:
    query = {"labelSelector": labels, "resourceVersion": version, "allowWatchBookmarks": "true"}
    query |= {"watch": "true", "timeoutSeconds": str(_WATCHED)}
    async with connection.send("GET", path, query, timeout=_TIMEOUT) as answer:
        async for line in answer.content:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ApiError(str(event["object"].get("message")), int(event["object"].get("code", 500)))
            yield event["type"], event["object"]
