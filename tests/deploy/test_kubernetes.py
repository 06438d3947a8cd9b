"""What is deployed on Kubernetes, and the command that does it, against a double of the API server."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from api_server import DEPLOYMENTS, ApiServer
from pods import PENDING, READY, Pods, waiting

import farcall as fc
from farcall._cli import main
from farcall._engines.kubernetes import access
from farcall._engines.kubernetes.connection import ApiError, Connection
from farcall._engines.kubernetes.pods import find_trouble, say_state, why_deleted, why_ended
from farcall._engines.kubernetes.watch import watch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
ALL = {"workers": 7, "image": "r.example.org/farcall:2", "cpu": "500m", "memory": "4Gi", "gpu": 1}


def documents(**options):
    """Return what is deployed, by kind and name."""
    found = yaml.safe_load_all(fc.engines.Kubernetes(**options).manifests())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


DOCUMENTS = documents()
DEPLOYED = [each for (kind, _), each in DOCUMENTS.items() if kind == "Deployment"]


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[ApiServer]:
    """An API server, whose pods come up at once unless the test says otherwise, in this program's kubeconfig."""
    with ApiServer(tmp_path) as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig)
        made.pods = Pods(made)
        yield made


def farcall(*args):
    """Run the command and return its status."""
    return main(["deploy", *map(str, args)])


# What is deployed


def test_kubectl_and_farcall_apply_the_same(require, capsys):
    """`kubectl apply -k` and `farcall deploy kubernetes --dry-run` mean the same documents."""
    require(shutil.which("kubectl"), "kubectl, which renders a kustomization")
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True)
    theirs = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    assert farcall("kubernetes", "--dry-run") == 0
    ours = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(capsys.readouterr().out)}
    assert ours == theirs


def test_the_documents_are_part_of_the_package():
    """What is rendered is what a person reads in deploy/kubernetes."""
    shipped = files("farcall._engines") / "manifests"
    assert {each.name: each.read_text() for each in shipped.iterdir()} == {
        each.name: each.read_text() for each in FOLDER.iterdir()
    }


def flatten(thing, path=()):
    """Yield the paths and values of a document."""
    if isinstance(thing, dict):
        for name, value in thing.items():
            yield from flatten(value, (*path, name))
    elif isinstance(thing, list):
        for number, value in enumerate(thing):
            yield from flatten(value, (*path, number))
    else:
        yield path, thing


def test_options_change_what_they_name_and_nothing_else():
    """An image is that of all pods; sizes are the workers'; a namespace is everybody's."""
    base, changed = dict(flatten(DOCUMENTS)), dict(flatten(documents(**ALL, namespace="ann")))
    different = {(path[0][1], *path[1:]): value for path, value in changed.items() if base.get(path) != value}
    container = ("spec", "template", "spec", "containers", 0)
    sizes = {"cpu": "500m", "memory": "4Gi", "nvidia.com/gpu": "1"}
    expected = {("farcall-worker", "spec", "replicas"): 7}
    expected |= {(name, "metadata", "namespace"): "ann" for _, name in DOCUMENTS}
    expected |= {(each["metadata"]["name"], *container, "image"): ALL["image"] for each in DEPLOYED}
    for each in ("requests", "limits"):
        expected |= {("farcall-worker", *container, "resources", each, name): size for name, size in sizes.items()}
    assert different == expected
    assert base.keys() <= changed.keys()


@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_the_documents_are_valid(version):
    """They follow the schemas of Kubernetes, without a field too many."""
    for each in [*DOCUMENTS.values(), *documents(**ALL).values()]:
        kubernetes_validate.validate(each, version, strict=True)


def test_an_invalid_document_is_found():
    """The check above would fail for a field that Kubernetes does not know."""
    wrong = json.loads(json.dumps(DEPLOYED[0]))
    wrong["spec"]["template"]["spec"]["runAsNonRoot"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="runAsNonRoot"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def containers():
    """Yield the name of each Deployment, what its pods are, and their container."""
    for each in DEPLOYED:
        pod = each["spec"]["template"]["spec"]
        [container] = pod["containers"]
        yield each["metadata"]["name"], pod, container


def test_pods_have_no_rights_that_they_do_not_need():
    """No root, no capability, no writing outside of what is mounted, no new privileges, the system calls of most."""
    for name, pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["enableServiceLinks"] is False
        assert {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}} == {"secret", "emptyDir"}
        assert pod["automountServiceAccountToken"] is (name == "farcall-jupyter")


def test_pods_are_probed_and_bounded():
    """Each has the three probes, of a port that it has, requests and limits."""
    for _, _, container in containers():
        ports = {each["name"] for each in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        for each in ("requests", "limits"):
            assert container["resources"][each].keys() == {"cpu", "memory"}


def test_all_speak_tls_with_one_secret():
    """Every pod has the certificate where the image looks for it, and dials addresses of TLS."""
    secret = {"name": "tls", "secret": {"secretName": "farcall-tls", "defaultMode": 0o440}}
    for name, pod, container in containers():
        assert secret in pod["volumes"]
        assert {"name": "tls", "mountPath": "/etc/farcall/tls", "readOnly": True} in container["volumeMounts"]
        dialled = [each["value"] for each in container["env"] if each["name"] == "DASK_SCHEDULER_ADDRESS"]
        assert dialled == ([] if name == "farcall-scheduler" else ["tls://farcall-scheduler:8786"])


def test_only_the_namespace_gets_in():
    """A policy of each component lets in pods of the namespace, at the ports that it serves."""
    ports = {"farcall-scheduler": [8786], "farcall-worker": None, "farcall-jupyter": [8888]}
    for name, expected in ports.items():
        policy = DOCUMENTS["NetworkPolicy", name]["spec"]
        assert policy["podSelector"]["matchLabels"] == DOCUMENTS["Deployment", name]["spec"]["selector"]["matchLabels"]
        assert policy["policyTypes"] == ["Ingress"]
        [rule] = policy["ingress"]
        assert rule["from"] == [{"podSelector": {}}]
        assert [each["port"] for each in rule["ports"]] == expected if expected else "ports" not in rule


def test_rights_are_those_of_a_notebook_that_scales():
    """Scheduler and workers have an account without any; JupyterLab's may look at pods and scale the workers."""
    accounts = {each["metadata"]["name"]: each["spec"]["template"]["spec"]["serviceAccountName"] for each in DEPLOYED}
    assert accounts == {
        "farcall-scheduler": "farcall",
        "farcall-worker": "farcall",
        "farcall-jupyter": "farcall-jupyter",
    }
    bound = {name: each for (kind, name), each in DOCUMENTS.items() if kind == "RoleBinding"}
    assert bound.keys() == {"farcall-jupyter"}
    assert bound["farcall-jupyter"]["subjects"] == [{"kind": "ServiceAccount", "name": "farcall-jupyter"}]
    allowed = [
        (each["resources"], each["verbs"], each.get("resourceNames"))
        for each in DOCUMENTS["Role", "farcall-jupyter"]["rules"]
    ]
    assert allowed == [
        (["pods"], ["get", "list", "watch"], None),
        (["deployments/scale"], ["get", "update"], ["farcall-worker"]),
    ]
    assert not any(kind.startswith("Cluster") for kind, _ in DOCUMENTS)


def test_drains_leave_most_workers_and_the_scheduler():
    """Budgets for disruptions; a worker that is to go has time to finish, more than the default."""
    budgets = {name: each["spec"]["maxUnavailable"] for (kind, name), each in DOCUMENTS.items() if "Budget" in kind}
    assert budgets == {"farcall-scheduler": 0, "farcall-worker": "25%"}
    pod = DOCUMENTS["Deployment", "farcall-worker"]["spec"]["template"]["spec"]
    [drain] = [each["value"] for each in pod["containers"][0]["env"] if each["name"] == "FARCALL_DRAIN"]
    assert 30 < int(drain) < pod["terminationGracePeriodSeconds"]


def test_what_kubernetes_would_not_understand():
    """An option that makes no sense is a ValueError that says what to write."""
    wrong = {
        "workers=-1: write how many": {"workers": -1},
        "gpu=0.5: write how many": {"gpu": 0.5},
        "cpu='two' is no quantity of Kubernetes: write 2 or '500m'": {"cpu": "two"},
        "memory='4 GB' is no quantity of Kubernetes: write '4Gi'": {"memory": "4 GB"},
        "image='' names no image": {"image": ""},
    }
    for text, options in wrong.items():
        with pytest.raises(ValueError, match=re.escape(text)):
            fc.engines.Kubernetes(**options)


# The command


def test_deploy_status_down(server, capsys):
    """All is applied, waited for, shown, and deleted; other people's things stay."""
    server.call(server.put, "/api/v1/namespaces/default/secrets", {"metadata": {"name": "theirs", "labels": {}}})
    assert farcall("kubernetes", "--workers", 3, "--image", "r.example.org/farcall:2") == 0
    printed = capsys.readouterr().out
    assert "3 of 3 workers have joined; pods: 5 ready" in printed
    assert "kubectl port-forward service/farcall-jupyter 8888 --namespace default" in printed
    names = {f"{kind.lower().replace('policy', 'policie')}s/{name}" for kind, name in DOCUMENTS}
    assert set(server.names()) == names | {"secrets/farcall-tls", "secrets/farcall-jupyter", "secrets/theirs"}

    assert farcall("status") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("namespace default, image r.example.org/farcall:2: 3 of 3 workers have joined\nPOD")
    assert shown.count("farcall-worker-") == 3

    assert farcall("down") == 0
    assert server.names() == ["secrets/theirs"]
    assert farcall("status") == 1
    assert farcall("down") == 0
    assert "nothing of farcall's" in capsys.readouterr().out


def test_once_more_changes_nothing_but_what_is_asked_for(server):
    """Certificate and token stay, and so do the workers that kubectl has added, the image, and sizes."""
    assert farcall("kubernetes", "--workers", 2, "--image", "one", "--memory", "4Gi", "--gpu", 1) == 0
    before = {name: server.read_secret(name) for name in ("farcall-tls", "farcall-jupyter")}
    fc.engines.Kubernetes().scale(4)
    versions = [each["metadata"]["resourceVersion"] for each in server.objects(DEPLOYMENTS.format("default"))]
    assert farcall("kubernetes") == 0
    assert [each["metadata"]["resourceVersion"] for each in server.objects(DEPLOYMENTS.format("default"))] == versions
    assert farcall("kubernetes", "--image", "two", "--gpu", 0) == 0
    worker = server.find(DEPLOYMENTS, "farcall-worker")["spec"]
    [container] = worker["template"]["spec"]["containers"]
    assert (worker["replicas"], container["image"]) == (4, "two")
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    assert before == {name: server.read_secret(name) for name in before}


FORBIDDEN = 'deployments.apps "farcall-worker" is forbidden: User "ann" cannot patch resource "deployments"'


@pytest.mark.parametrize(
    ("refusal", "arguments", "text"),
    [
        (("PATCH", "farcall-worker", 403, FORBIDDEN), (), "kubectl auth can-i --list -n default"),
        (None, ("-n", "no-such"), "kubectl create namespace no-such, or name another"),
        (("POST", "secrets", 401, "Unauthorized"), (), "log in again"),
        (
            ("PATCH", "farcall-worker", 500, "etcdserver: request timed out", 9),
            (),
            "do this again later, which is safe",
        ),
        (("PATCH", "farcall-worker", 422, "spec.replicas: Invalid value"), (), "spec.replicas: Invalid value"),
    ],
)
def test_what_the_server_refuses(server, capsys, refusal, arguments, text):
    """The error has the server's words, and what to do."""
    if refusal is not None:
        server.refuse(*refusal)
    assert farcall("kubernetes", *arguments) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("farcall: the API server said ")
    assert refusal is None or refusal[3] in error


def test_what_passes_is_tried_again(server):
    """A server that is busy for a moment is asked again; who scales at the same time as others does it anew."""
    server.refuse("PATCH", "farcall-worker", 500, "etcdserver: leader changed")
    server.refuse("POST", "secrets", 409, 'secrets "farcall-tls" already exists')
    server.pods.states["scheduler"] = waiting("CreateContainerConfigError", 'secret "farcall-tls" not found')
    assert farcall("kubernetes") == 1
    server.refuse("PUT", "scale", 409, "the object has been modified")
    fc.engines.Kubernetes().scale(3)
    assert server.find(DEPLOYMENTS, "farcall-worker")["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    ("kubeconfig", "arguments", "text"),
    [
        ("", (), "no way to a Kubernetes cluster in the kubeconfig"),
        ("of the server", ("--context", "other"), "contexts there: test"),
        ("of one that is gone", (), "cannot be reached"),
    ],
)
def test_no_way_to_a_cluster(server, tmp_path, monkeypatch, capsys, kubeconfig, arguments, text):
    """Without a kubeconfig, with a context that is not in it, with a server that does not answer."""
    if not kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    if kubeconfig == "of one that is gone":
        path = tmp_path / "gone"
        path.write_text(Path(server.kubeconfig).read_text().replace(server.url, "https://127.0.0.1:9"))
        monkeypatch.setenv("KUBECONFIG", str(path))
    assert farcall("status", *arguments) == 1
    assert text in capsys.readouterr().err


QUOTA = 'pods "farcall-worker-1" is forbidden: exceeded quota: small, requested: limits.memory=2Gi'


@pytest.mark.parametrize(
    ("status", "timeout", "text"),
    [
        (PENDING, 0.1, "Insufficient cpu: ask for less (cpu=, memory=, gpu=, workers=), or add nodes"),
        (
            waiting("ImagePullBackOff", 'Back-off pulling image "farcall"'),
            60,
            "push it to where the cluster's nodes pull",
        ),
        (waiting("CrashLoopBackOff", "", {"exitCode": 1, "reason": "Error"}), 60, "No module named 'farcall'"),
        (
            waiting("CrashLoopBackOff", "", {"exitCode": 137, "reason": "OOMKilled"}),
            60,
            "ask for more: memory= (--memory)",
        ),
        (waiting("CreateContainerConfigError", "no secret"), 60, "kubectl describe pod farcall-worker-"),
        ({"phase": "Pending", "conditions": []}, 0.1, "give it more time: timeout= (--timeout)"),
    ],
)
def test_pods_that_do_not_start(server, capsys, status, timeout, text):
    """The error says which pods, why, and what to do; at once if they never will, else when the time is over."""
    server.pods.states["worker"] = status
    server.logs = {f"farcall-worker-{n}": "Traceback\nNo module named 'farcall'" for n in range(9)}
    assert farcall("kubernetes", "--timeout", timeout) == 1
    error = capsys.readouterr().err
    assert text in error
    assert "0 of 2 workers have joined" in error


def test_a_deployment_that_makes_no_pods(server, capsys):
    """A quota of the namespace is named, though there is no pod that could say so."""
    server.pods.reconcile = lambda deployment: None

    def refuse(deployment):
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}
        server.put(DEPLOYMENTS.format("default"), deployment | {"status": {"conditions": [condition]}})

    server.on_deployment = refuse
    assert farcall("kubernetes") == 1
    assert f"no pod: FailedCreate: {QUOTA}: ask for less" in capsys.readouterr().err


# What pods say


def pod(status, **metadata):
    container = {"name": "worker", "image": "farcall", "resources": {"limits": {"memory": "2Gi"}}}
    labels = {"app.kubernetes.io/component": "worker"}
    return {
        "metadata": {"name": "p", "labels": labels, **metadata},
        "spec": {"containers": [container]},
        "status": status,
    }


def ended(restarts=0, **terminated):
    return {"containerStatuses": [{"name": "worker", "restartCount": restarts, "state": {"terminated": terminated}}]}


def disrupted(reason, message):
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]}


AGAIN = {
    "containerStatuses": [
        {
            "name": "worker",
            "restartCount": 1,
            "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }
    ]
}
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
LEAVING = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def test_why_a_worker_ended():
    """Kubernetes' own word comes first, and what it means after it; docs/deaths.md says what to do about it."""
    reasons = [
        (pod(READY), None),
        (
            pod(ended(exitCode=137, reason="OOMKilled")),
            "OOMKilled: it needed more memory than its limit of 2Gi (pod p)",
        ),
        (pod(AGAIN), "OOMKilled: it needed more memory than its limit of 2Gi (pod p)"),
        (pod(ended(exitCode=139, reason="Error")), "Error: killed by signal 11 (SIGSEGV) (pod p)"),
        (pod(ended(exitCode=3, reason="Error")), "Error: exit status 3 (pod p)"),
        (pod(EVICTED), "Evicted: The node was low on resource: memory."),
        (
            pod(ended(exitCode=143) | disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), **LEAVING),
            "EvictionByEvictionAPI: Eviction API: evicting",
        ),
        (
            pod(ended(exitCode=137, reason="OOMKilled"), **LEAVING),
            "OOMKilled: it needed more memory than its limit of 2Gi (pod p)",
        ),
        (
            pod(ended(exitCode=0, reason="Completed"), **LEAVING),
            "its pod p was deleted: by kubectl scale, by a new version of the Deployment, or by hand",
        ),
    ]
    text = (ROOT / "docs" / "deaths.md").read_text()
    for one, reason in reasons:
        assert why_ended(one, 0) == reason
        assert reason is None or f"`{reason.partition(':')[0]}" in text or "was deleted: by kubectl scale" in reason
    assert why_ended(pod(AGAIN), 1) is None  # that was the one before


def test_a_pod_that_is_gone():
    """A pod that was taken away says by whom, if Kubernetes has said so."""
    assert why_deleted(pod(disrupted("PreemptionByScheduler", "preempting"))) == "PreemptionByScheduler: preempting"
    assert "kubectl scale" in why_deleted(pod(READY))


def test_states_of_pods():
    """One word for the state of a pod, as kubectl has it; one that is to go is no trouble."""
    stuck = waiting("ImagePullBackOff", "")
    stuck["containerStatuses"][0]["name"] = "worker"
    assert [say_state(pod(each)) for each in (READY, PENDING, EVICTED, stuck)] == [
        "Ready",
        "Pending",
        "Evicted",
        "ImagePullBackOff",
    ]
    assert say_state(pod(stuck, **LEAVING)) == "Terminating"
    assert find_trouble(pod(stuck, **LEAVING)) is None


# The connection


def test_a_watch_tells_all_that_happens(server):
    """In order, also what happened while the server had forgotten us (410), and what was deleted meanwhile."""
    heard = []

    def tell(kind, each):
        heard.append((kind, each["metadata"]["name"]))
        if len(heard) == 1:
            server.call(server.drop, make_pod("one"))
            server.call(put_pod, server, "two")
            server.call(forget, server)
        if heard[-1] == ("ADDED", "two"):
            server.refuse("GET", "pods", 403, "forbidden")
            server.call(forget, server)

    server.call(put_pod, server, "one")
    with Opened() as connection, pytest.raises(ApiError, match="403"):
        connection.run(watch(connection, "/api/v1/namespaces/default/pods", "a=b", tell))
    assert heard == [("ADDED", "one"), ("DELETED", "one"), ("ADDED", "two")]


def make_pod(name):
    return {"metadata": {"name": name, "namespace": "default", "labels": {"a": "b"}}}


def put_pod(server, name):
    server.put("/api/v1/namespaces/default/pods", make_pod(name))


def forget(server):
    """Have watches begin anew."""
    server.forgotten = server.version + 1
    server.put("/api/v1/namespaces/default/secrets", {"metadata": {"name": "any"}})


class Opened(Connection):
    """The connection of the kubeconfig, for a block."""

    def __init__(self):
        super().__init__(access.find_access(None, None))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def test_in_a_pod_its_account_is_used(server, tmp_path, monkeypatch):
    """Without a kubeconfig; the token is read anew, as the kubelet renews it."""
    authority = json.loads(Path(server.kubeconfig).read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
    contents = {"token": "old", "namespace": "ann", "ca.crt": base64.b64decode(authority).decode()}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    host, port = server.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setattr(access, "_ACCOUNT", tmp_path)
    with Opened() as connection:
        assert (connection.access.is_inside, connection.access.namespace) == (True, "ann")
        with pytest.raises(ApiError, match="401"):
            connection.request("GET", "/api/v1/namespaces/ann/pods")
        (tmp_path / "token").write_text("a token")
        assert connection.request("GET", "/api/v1/namespaces/ann/pods")["items"] == []


def test_importing_the_command_imports_no_client():
    """``farcall`` itself is as quick as before: what speaks to Kubernetes comes with its command."""
    show = "import sys, farcall._cli; print({'kubernetes', 'aiohttp', 'yaml', 'distributed'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
