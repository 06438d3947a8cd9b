"""Pods for tests, of the Deployments that a double of the API server holds: of a state told, or real processes.

pods = Pods(server)                       # ready at once, with nothing inside
pods.states["worker"] = IMAGE             # they will not start
pods = RunningPods(server, folder)        # what their arguments say, on addresses of the loopback
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from aiohttp import web
from api_server import DEPLOYMENTS, NAMESPACES, PODS, fits
from waiting import until

import farcall as fc

SCHEDULED = {"type": "PodScheduled", "status": "True"}
PENDING = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }
    ],
}
_CONTROLLER = 0.2  # seconds
READY = {"phase": "Running", "conditions": [SCHEDULED, {"type": "Ready", "status": "True"}]}


def waiting(reason, message, ended=None):
    """Return the status of a pod whose container waits, and how it ended before."""
    state = {"state": {"waiting": {"reason": reason, "message": message}}, "restartCount": 3 if ended else 0}
    if ended:
        state["lastState"] = {"terminated": ended}
    return {"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": [state]}


class Pods:
    """Pods that are of a state for each component: a status, ready by default."""

    def __init__(self, server):
        self.states = {}
        self._server = server
        self._numbers = itertools.count(1)
        server.on_deployment = self.reconcile
        server.reach = self.reach
        self._pages = server.call_soon(self._open_pages())

    async def _open_pages(self):
        """Serve what the scheduler says of who has joined: the workers that are ready."""

        async def count(request):
            ready = [each for name in NAMESPACES for each in self.all("worker", name) if is_ready(each)]
            return web.json_response({"workers": len(ready)})

        application = web.Application()
        application.router.add_get("/json/counts.json", count)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._server.runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0]

    def reach(self, pod, port):
        """Return where a port of a pod is."""
        return self._pages if port == 8787 else ("127.0.0.1", port)

    def all(self, component, namespace="default"):
        """Return the pods of a component."""
        found = self._server.objects(PODS.format(namespace))
        return [each for each in found if fits(each, {"app.kubernetes.io/component": component})]

    def reconcile(self, deployment):
        """Have as many pods of the present template as a Deployment asks for."""
        metadata, spec = deployment["metadata"], deployment["spec"]
        component = metadata["labels"]["app.kubernetes.io/component"]
        pods = [each for each in self.all(component, metadata["namespace"]) if not is_leaving(each)]
        stays = [each for each in pods if each["spec"] == make_spec(spec["template"])]
        surplus = sorted(stays, key=is_ready, reverse=True)[spec["replicas"] :]
        for each in [each for each in pods if each not in stays] + surplus:
            self._server.terminate(each)
        for _ in range(spec["replicas"] - len(stays)):
            self.start(self._make(deployment, component), component)
        self.tell(metadata["name"], metadata["namespace"], metadata["generation"])

    def tell(self, name, namespace, generation=None):
        """Say in the status of a Deployment how its pods are, and which generation of it has just been acted upon."""
        found = self._server.find(DEPLOYMENTS, name, namespace)
        if found is None:
            return
        pods = self.all(found["metadata"]["labels"]["app.kubernetes.io/component"], namespace)
        status = {
            "observedGeneration": generation or found.get("status", {}).get("observedGeneration", 0),
            "replicas": len(pods),
            "updatedReplicas": len(pods),
            "availableReplicas": sum(map(is_ready, pods)),
        }
        if found.get("status") != status:
            self._server.put(DEPLOYMENTS.format(namespace), found | {"status": status})

    def _make(self, deployment, component):
        template, metadata = deployment["spec"]["template"], deployment["metadata"]
        name = f"{metadata['name']}-{next(self._numbers)}"
        pod = {
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": dict(template["metadata"]["labels"]),
            },
            "spec": make_spec(template),
            "status": {"phase": "Pending"},
        }
        self._server.put(PODS.format(metadata["namespace"]), pod)
        return pod

    def start(self, pod, component):
        """Bring a pod to its state."""
        status = json.loads(json.dumps(self.states.get(component, READY)))
        for each in status.get("containerStatuses", ()):
            each |= {"name": component, "image": pod["spec"]["containers"][0]["image"]}
        self.set_status(pod, status)

    def set_status(self, pod, status):
        """Change the status of a pod, and that of its Deployment."""
        metadata = pod["metadata"]
        self._server.patch(PODS.format(metadata["namespace"]), metadata["name"], {"status": status})
        self.tell(metadata["name"].rpartition("-")[0], metadata["namespace"])


class RunningPods(Pods):
    """Pods whose containers run here, as Dask's scheduler and workers, each at an address of the loopback."""

    def __init__(self, server, folder):
        super().__init__(server)
        self._folder = folder
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self._over = threading.Event()
        self._threads = []
        self._processes = {}  # by the name of a pod
        self._ended = {}  # what its status will say of the end that comes next
        server.on_pod_deleted = self._end

    def reach(self, pod, port):
        return (pod["status"]["podIP"] if port in (8786, 8787) else "127.0.0.1"), port

    def reconcile(self, deployment):
        """Do so a little later, as the controllers of a cluster do."""
        metadata = deployment["metadata"]

        def act():
            now = self._server.find(DEPLOYMENTS, metadata["name"], metadata["namespace"])
            super(RunningPods, self).reconcile(now or deployment)

        if not self._over.is_set():
            self._server.call_later(_CONTROLLER, act)

    def start(self, pod, component):
        if component == "jupyter" or component in self.states:
            super().start(pod, component)
            return
        address = f"{self._network}.{next(self._numbers)}"
        self.set_status(pod, {"podIP": address, "conditions": [SCHEDULED]})
        self._threads.append(threading.Thread(target=self._run, args=(pod, component, address), daemon=True))
        self._threads[-1].start()

    def kill(self, name, number=signal.SIGKILL, late=0.0, **ended):
        """End the process of a pod; ``ended`` is what the status says of it, so many seconds later."""
        self._ended[name] = late, ended
        self._processes[name].send_signal(number)

    def find(self, process):
        """Return the name of the pod in which a process runs."""
        return next(name for name, each in self._processes.items() if each.pid == process)

    def close(self):
        """End all of them, without a word."""
        self._server.on_deployment = lambda deployment: None
        self._over.set()
        for each in list(self._processes.values()):
            each.kill()
        for each in self._threads:
            each.join()

    def _end(self, pod):
        process = self._processes.get(pod["metadata"]["name"])
        if process is None:
            self._server.drop(pod)
        else:
            process.terminate()

    def _run(self, pod, component, address):
        """Run the process of a pod, and again when it has ended, until the pod is to go."""
        name = pod["metadata"]["name"]
        for restarts in itertools.count():
            self._processes[name] = process = self._start_process(pod, component, address)
            if self._over.is_set():
                process.kill()
            if becomes_ready(process, pod, address):
                self._say(pod, component, restarts, {"running": {}})
            code = process.wait()
            if self._over.is_set():
                return
            late, told = self._ended.pop(name, (0.0, {}))
            self._over.wait(late)  # as the kubelet takes its time
            ended = {"exitCode": 128 - code if code < 0 else code, "reason": "Error"} | told
            now = self._server.find(PODS, name)
            if now is None or is_leaving(now):
                self._server.call(self._server.drop, pod)
                self._server.call(self.tell, name.rpartition("-")[0], "default")
                return
            self._say(pod, component, restarts, {"terminated": ended})
            self._say(pod, component, restarts + 1, {"waiting": {"reason": "ContainerCreating"}}, ended)

    def _say(self, pod, component, restarts, state, ended=None):
        container = {"name": component, "restartCount": restarts, "state": state}
        container["lastState"] = {"terminated": ended} if ended else {}
        ready = {"type": "Ready", "status": str("running" in state)}
        status = {"phase": "Running", "conditions": [SCHEDULED, ready], "containerStatuses": [container]}
        self._server.call(self.set_status, pod, status)

    def _start_process(self, pod, component, address):
        [container] = pod["spec"]["containers"]
        variables = {each["name"]: self._value(each, pod, container) for each in container.get("env", ())}
        role, *args = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], each) for each in container["args"]]
        port = 8787 if role == "scheduler" else 8788
        role_args = ["--no-nanny", "--preload", "farcall.integrations.dask_worker"] if role == "worker" else []
        command = [sys.executable, "-m", "dask", role, *role_args, *args]
        command += ["--host", address, "--dashboard-address", f"{address}:{port}"]
        program, tests = Path(fc.__file__).parents[1], Path(__file__).parent
        environment = os.environ | variables | self._settings(pod)
        environment |= {"PYTHONPATH": f"{program}:{tests}", "NOT_OF_THIS_TEST": "1"}
        log = (self._folder / f"{pod['metadata']['name']}.log").open("ab")
        with log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self._folder)

    def _value(self, variable, pod, container):
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name"
            return pod["metadata"]["name"]
        if "resourceFieldRef" in source:
            limit = container["resources"]["limits"][source["resourceFieldRef"]["resource"].removeprefix("limits.")]
            return str(int(limit.replace("Gi", "")) << 30 if limit.endswith("Gi") else int(limit))
        [scheduler] = [each for each in self.all("scheduler") if not is_leaving(each)]
        return variable["value"].replace("farcall-scheduler", scheduler["status"].get("podIP", ""))

    def _settings(self, pod):
        """Return what the image makes of the files of the Secret that is mounted."""
        [volume] = [each for each in pod["spec"]["volumes"] if each["name"] == "tls"]
        mounted = self._folder / pod["metadata"]["name"]
        mounted.mkdir(exist_ok=True)  # it is there when the pod starts again
        paths = {}
        for name, text in self._server.read_secret(volume["secret"]["secretName"]).items():
            paths[name] = mounted / name
            paths[name].write_text(text)
        settings = {"REQUIRE_ENCRYPTION": "true", "DEFAULT_SCHEME": "tls", "TLS__CA_FILE": str(paths["ca.crt"])}
        for role in ("SCHEDULER", "WORKER", "CLIENT"):
            settings |= {f"TLS__{role}__CERT": str(paths["tls.crt"]), f"TLS__{role}__KEY": str(paths["tls.key"])}
        return {f"DASK_DISTRIBUTED__COMM__{name}": value for name, value in settings.items()}


def make_spec(template):
    """Return the specification of a pod of a template, on a node."""
    return json.loads(json.dumps(template["spec"] | {"nodeName": "node-1"}))


def is_ready(pod):
    """Whether a pod says that it is ready."""
    return {"type": "Ready", "status": "True"} in pod["status"].get("conditions", ())


def is_leaving(pod):
    """Whether a pod is to go."""
    return "deletionTimestamp" in pod["metadata"]


def becomes_ready(process, pod, address):
    """Whether what a pod runs passes its probe, before it ends."""
    [container] = pod["spec"]["containers"]
    probe = container["readinessProbe"]["httpGet"]
    port = next(each["containerPort"] for each in container["ports"] if each["name"] == probe["port"])
    return until(lambda: process.poll() is not None or answers(f"http://{address}:{port}{probe['path']}"), 30)


def answers(url):
    """Whether somebody answers there."""
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True
