"""A double of the API server of Kubernetes, over TLS: it stores objects, and lets them be watched.

    with ApiServer(folder) as server:
        os.environ["KUBECONFIG"] = server.kubeconfig

It knows what the real one knows of the requests that farcall makes, and refuses all others. What makes pods of
Deployments is in ``pods``.
"""

import asyncio
import base64
import copy
import json
import re
import ssl
import threading
from collections import defaultdict
from pathlib import Path

from aiohttp import WSMsgType, web
from certificates import Authority

TOKEN = "a token"
NAMESPACES = ("default", "ann")
COLLECTION = re.compile(
    r"(?P<collection>/(?:api|apis/(?:apps|policy|rbac\.authorization\.k8s\.io|networking\.k8s\.io))/v1"
    r"/namespaces/(?P<namespace>[^/]+)/(?P<kind>[a-z]+))(?:/(?P<name>[^/]+))?(?:/(?P<part>[a-z]+))?"
)
KINDS = {  # where each kind is, besides the namespace
    "/api/v1": ["pods", "secrets", "serviceaccounts", "services"],
    "/apis/apps/v1": ["deployments"],
    "/apis/networking.k8s.io/v1": ["networkpolicies"],
    "/apis/policy/v1": ["poddisruptionbudgets"],
    "/apis/rbac.authorization.k8s.io/v1": ["rolebindings", "roles"],
}
PODS = "/api/v1/namespaces/{}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"


class Refusal(Exception):
    """An answer that says no, as the server words it."""

    def __init__(self, code, message, reason=""):
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.status |= {"message": message, "reason": reason}


class ApiServer:
    """The server, on a thread of its own until the end of a ``with`` block.

    ``requests`` are those that came: (method, path, query, body). ``refuse`` has the next ones that fit refused.
    ``on_deployment(deployment)`` and ``on_pod_deleted(pod)`` are called on the thread; so is ``reach(pod, port)``,
    which returns the host and port that a forwarded connection leads to.
    """

    def __init__(self, folder):
        self.requests = []
        self.logs = {}  # by the name of a pod
        self.on_deployment = lambda deployment: None
        self.on_pod_deleted = self.drop
        self.reach = lambda pod, port: ("127.0.0.1", port)
        self.runners = []  # other servers on the thread
        self.forgotten = 0  # the version of which watches know nothing any more
        self._objects = defaultdict(dict)  # by collection and name
        self._applied = {}  # the fields that are ours, by collection and name
        self.version = 100
        self._events = []
        self._news = asyncio.Condition()
        self._refusals = []
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="api-server", daemon=True)
        self._started = threading.Event()
        self.kubeconfig = str(folder / "kubeconfig")

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # For tests and for what makes pods

    def refuse(self, method, part, code, message, times=1):
        """Have requests whose path ends so refused, so many times."""
        self._refusals.append([method, part, times, Refusal(code, message)])

    def find(self, collection, name, namespace="default"):
        """Return an object as it is now, None if there is none."""
        return copy.deepcopy(self._objects[collection.format(namespace)].get(name))

    def objects(self, collection):
        """Return the objects of a collection as they are now."""
        return copy.deepcopy(list(self._objects[collection].values()))

    def read_secret(self, name, namespace="default"):
        """Return what is in a Secret."""
        data = self.find("/api/v1/namespaces/{}/secrets", name, namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def names(self, namespace="default"):
        """Return the kinds and names of all objects but pods."""
        return sorted(
            f"{collection.rpartition('/')[2]}/{name}"
            for collection, each in self._objects.items()
            for name in each
            if f"/{namespace}/" in collection and not collection.endswith("/pods")
        )

    def call(self, action, *args):
        """Do something on the thread, which all objects belong to, and return what it returns."""

        async def do():
            return action(*args)

        return self.call_soon(do())

    def call_later(self, seconds, action, *args):
        """Do something on the thread after some time; on the thread."""
        self._loop.call_later(seconds, action, *args)

    def call_soon(self, coroutine):
        """Return what a coroutine does on the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def put(self, collection, thing, kind=None):
        """Keep an object and tell the watchers; on the thread."""
        name, objects = thing["metadata"]["name"], self._objects[collection]
        self.version += 1
        before = objects.get(name)
        metadata = thing["metadata"]
        metadata["resourceVersion"] = str(self.version)
        metadata.setdefault("uid", f"{name}-{self.version}")
        metadata.setdefault("generation", 1)
        if before is not None and before.get("spec") != thing.get("spec"):
            metadata["generation"] = before["metadata"]["generation"] + 1
        objects[name] = thing
        self._tell(collection, kind or ("MODIFIED" if before else "ADDED"), thing)

    def patch(self, collection, name, change):
        """Change an object that is still there; on the thread."""
        thing = self.find(collection, name)
        if thing is not None:
            self.put(collection, merge(thing, change))

    def drop(self, pod):
        """Let a pod be no more; on the thread."""
        collection = PODS.format(pod["metadata"]["namespace"])
        gone = self._objects[collection].pop(pod["metadata"]["name"], None)
        if gone is not None:
            self.version += 1
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._tell(collection, "DELETED", gone)

    def _tell(self, collection, kind, thing):
        self._events.append((self.version, collection, kind, copy.deepcopy(thing)))

        async def notify():
            async with self._news:
                self._news.notify_all()

        self._loop.create_task(notify())

    # The server

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._open())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(runner))
        self._loop.close()

    async def _end(self, runner):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in (runner, *self.runners):
            await each.cleanup()

    async def _open(self):
        authority = Authority()
        certificate, key = authority.issue(address="127.0.0.1")
        for name, text in ("cert.pem", certificate), ("key.pem", key):
            Path(self._folder, name).write_text(text)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self._folder / "cert.pem", self._folder / "key.pem")
        application = web.Application(client_max_size=1 << 22)
        application.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        cluster = {"server": self.url}
        cluster["certificate-authority-data"] = base64.b64encode(authority.certificate.encode()).decode()
        config = {
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "ann", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "ann"}}],
        }
        Path(self.kubeconfig).write_text(json.dumps(config))
        return runner

    async def _answer(self, request):
        try:
            return await self._handle(request)
        except Refusal as refusal:
            return web.json_response(refusal.status, status=refusal.status["code"])
        except ConnectionError:
            return web.Response()  # who asked has gone

    async def _handle(self, request):
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, dict(request.query), body))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        for each in self._refusals:
            if each[2] and request.method == each[0] and request.path.endswith(each[1]):
                each[2] -= 1
                raise each[3]
        found = COLLECTION.fullmatch(request.path)
        if found is None or found["kind"] not in KINDS.get(request.path.partition("/namespaces")[0], ()):
            raise Refusal(404, "the server could not find the requested resource", "NotFound")
        if request.method != "GET" and found["namespace"] not in NAMESPACES:
            raise Refusal(404, f'namespaces "{found["namespace"]}" not found', "NotFound")
        if found["part"]:
            return await getattr(self, f"_{request.method.lower()}_{found['part']}")(request, found, body)
        return await getattr(self, f"_{request.method.lower()}")(request, found, body)

    def _get_object(self, found):
        thing = self._objects[found["collection"]].get(found["name"])
        if thing is None:
            raise Refusal(404, f'{found["kind"]} "{found["name"]}" not found', "NotFound")
        return copy.deepcopy(thing)

    async def _get(self, request, found, _):
        if found["name"]:
            return web.json_response(self._get_object(found))
        wanted = parse_selector(request.query.get("labelSelector", ""))
        if request.query.get("watch"):
            return await self._watch(request, found["collection"], wanted)
        items = [each for each in self._objects[found["collection"]].values() if fits(each, wanted)]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request, collection, wanted):
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)

        async def say(kind, thing):
            await response.write(json.dumps({"type": kind, "object": thing}).encode() + b"\n")

        if since < self.forgotten:
            await say("ERROR", Refusal(410, f"too old resource version: {since} ({self.version})").status)
            return response
        await say("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(since)}})
        while True:
            for version, where, kind, thing in self._events:
                if version > since and where == collection and fits(thing, wanted):
                    await say(kind, thing)
                since = max(since, version)
            if since < self.forgotten:
                await say("ERROR", Refusal(410, f"too old resource version: {since} ({self.version})").status)
                return response
            async with self._news:
                if self.version <= since:
                    await self._news.wait()

    async def _post(self, request, found, body):
        name = body["metadata"]["name"]
        if name in self._objects[found["collection"]]:
            raise Refusal(409, f'{found["kind"]} "{name}" already exists', "AlreadyExists")
        self._store(found, body)
        return web.json_response(body, status=201)

    async def _patch(self, request, found, body):
        """Server-side apply: what we have said before and do not say any more goes, all else of others stays."""
        if request.content_type != "application/apply-patch+yaml":
            raise Refusal(415, "the double knows server-side apply alone")
        if not request.query.get("fieldManager"):
            raise Refusal(400, 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value', "BadRequest")
        key = found["collection"], found["name"]
        before = copy.deepcopy(self._objects[key[0]].get(key[1]))
        thing = merge(remove(before, self._applied.get(key, {}), body), body) if before else copy.deepcopy(body)
        self._applied[key] = copy.deepcopy(body)
        if before is None or {k: v for k, v in before.items() if k != "metadata"} != {
            k: v for k, v in thing.items() if k != "metadata"
        }:
            self._store(found, thing)
        return web.json_response(thing, status=200 if before else 201)

    async def _put(self, request, found, body):
        raise Refusal(405, "the double replaces scales alone")

    async def _delete(self, request, found, _):
        thing = self._get_object(found)
        if found["kind"] == "pods":
            self.terminate(thing)
        else:
            del self._objects[found["collection"]][found["name"]]
        if found["kind"] == "deployments":
            thing["spec"]["replicas"] = 0
            self.on_deployment(thing)
        return web.json_response({"kind": "Status", "status": "Success"})

    def terminate(self, pod):
        """Have a pod end, as when it is deleted; on the thread."""
        if "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self.put(PODS.format(pod["metadata"]["namespace"]), pod)
            self.on_pod_deleted(pod)

    def _store(self, found, thing):
        thing["metadata"]["namespace"] = found["namespace"]
        if found["kind"] == "secrets":
            texts = thing.pop("stringData", {})
            data = {name: base64.b64encode(text.encode()).decode() for name, text in texts.items()}
            thing["data"] = thing.get("data", {}) | data
        self.put(found["collection"], thing)
        if found["kind"] == "deployments":
            self.on_deployment(copy.deepcopy(thing))

    # Parts of objects

    async def _get_scale(self, request, found, _):
        return web.json_response(scale_of(self._get_object(found)))

    async def _put_scale(self, request, found, body):
        thing = self._get_object(found)
        if body["metadata"]["resourceVersion"] != thing["metadata"]["resourceVersion"]:
            raise Refusal(409, "Operation cannot be fulfilled: the object has been modified", "Conflict")
        thing["spec"]["replicas"] = body["spec"]["replicas"]
        self._store(found, thing)
        return web.json_response(scale_of(thing))

    async def _get_log(self, request, found, _):
        self._get_object(found)
        return web.Response(text=self.logs.get(found["name"], ""))

    async def _get_portforward(self, request, found, _):
        pod, port = self._get_object(found), int(request.query["ports"])
        there = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await there.prepare(request)
        for channel in (0, 1):
            await there.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection(*self.reach(pod, port))
        except OSError as error:
            await there.send_bytes(b"\1" + f"error forwarding port {port} to pod: {error}".encode())
            return there

        async def back():
            try:
                while data := await reader.read(1 << 16):
                    await there.send_bytes(b"\0" + data)
            finally:
                await there.close()

        returning = asyncio.create_task(back())
        try:
            async for message in there:
                if message.type is WSMsgType.BINARY and message.data[0] == 0:
                    writer.write(message.data[1:])
                    await writer.drain()
        finally:
            returning.cancel()
            writer.close()
            await asyncio.gather(returning, writer.wait_closed(), return_exceptions=True)
        return there


def scale_of(deployment):
    """Return the scale of a Deployment."""
    metadata = {name: deployment["metadata"][name] for name in ("name", "namespace", "resourceVersion")}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": deployment["spec"].get("replicas", 1)},
        "status": {"replicas": deployment.get("status", {}).get("replicas", 0)},
    }


def parse_selector(text):
    """Return the labels that a selector asks for."""
    return dict(each.split("=", 1) for each in text.split(",") if each)


def fits(thing, labels):
    """Whether an object bears some labels."""
    return labels.items() <= thing["metadata"].get("labels", {}).items()


def merge(thing, change):
    """Return an object with a change made; lists are replaced as a whole."""
    if not isinstance(thing, dict) or not isinstance(change, dict):
        return copy.deepcopy(change)
    return thing | {name: merge(thing.get(name), value) for name, value in change.items()}


def remove(thing, before, now):
    """Return an object without the fields that were said before and are not said now."""
    if not isinstance(thing, dict) or not isinstance(before, dict):
        return thing
    said = now if isinstance(now, dict) else {}
    gone = {name for name in before if name not in said}
    return {name: remove(value, before.get(name), said.get(name)) for name, value in thing.items() if name not in gone}
