"""Workers in pods: Dask's scheduler and workers run here as the pods say, behind a double of the API server."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from api_server import DEPLOYMENTS, ApiServer
from pods import PENDING, RunningPods
from test_docs import NEED_PODS, run_python
from waiting import until

import farcall as fc
from farcall.engines import Kubernetes


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ApiServer]:
    """A server on which a scheduler and two workers run, in this program's kubeconfig."""
    folder = tmp_path_factory.mktemp("kubernetes")
    with pytest.MonkeyPatch.context() as monkeypatch, ApiServer(folder) as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig)
        monkeypatch.setenv("FARCALL_SHARED_MINIMUM", str(1 << 40))  # pods of other hosts share no memory with us
        made.pods = RunningPods(made, folder)
        try:
            Kubernetes(workers=2, image="registry.example.org/ann/farcall:1").deploy(timeout=40, say=lambda _: None)
            yield made
        finally:
            made.pods.close()


def count_forwards(server):
    return sum(path.endswith("/portforward") for _, path, _, _ in server.requests)


def replicas(server):
    return server.find(DEPLOYMENTS, "farcall-worker")["spec"]["replicas"]


def process_of(pid):
    return fc.remotecall_fetch(pid, os.getpid)


def test_a_master_outside_computes_through_the_api_server(server):
    """Calls and data go through forwarded ports, between workers directly; what is deployed is joined as it is."""
    before = server.find(DEPLOYMENTS, "farcall-worker")
    with fc.addprocs(Kubernetes()) as pids:
        assert pids == fc.workers() == [2, 3]
        assert {server.pods.find(process_of(pid)) for pid in pids} == {
            each["metadata"]["name"] for each in server.pods.all("worker")
        }
        assert fc.pmap(lambda n: n * n, range(100)) == [n * n for n in range(100)]
        data = np.arange(3_000_000)
        assert np.array_equal(fc.remotecall_fetch(2, lambda x: x + 1, data), data + 1)
        known = count_forwards(server)
        assert fc.remotecall_fetch(2, lambda: fc.remotecall_fetch(3, os.getpid)) == process_of(3)
        assert count_forwards(server) == known
    assert fc.workers() == [1]
    assert server.find(DEPLOYMENTS, "farcall-worker") == before


@pytest.mark.parametrize("name", NEED_PODS)
def test_the_python_of_a_document_runs_on_pods(server, name, tmp_path):
    """All Python blocks of a document run in order in one program; values after ``# ->`` and printed text are right."""
    run_python(name, tmp_path, os.environ["PATH"])
    assert replicas(server) == 2


def test_pods_come_and_go_while_a_map_runs(server, capfd):
    """kubectl scale adds pids and takes some away, and a map uses those that there are; the reason names the pod."""
    engine = Kubernetes()
    with fc.addprocs(engine):
        seen, squares = set(), []
        for n, process in fc.imap(lambda n: (n * n, os.getpid()), range(10**9)):
            seen.add(process)
            squares.append(n)
            if len(squares) == 10:
                engine.scale(3)
            if len(seen) == 3 and replicas(server) == 3:
                engine.scale(1)
            if replicas(server) == 1 and fc.nworkers() == 1:
                break
        assert squares == [n * n for n in range(len(squares))]
    told = []

    def both_are_told():
        told.append(capfd.readouterr().err)
        return "".join(told).count("was deleted: by kubectl scale") == 2

    assert until(both_are_told)
    engine.scale(2)


def test_why_a_pod_ended_is_kubernetes_word(server, capfd):
    """The status of the pod says so, later than the connection ends; its successor gets another pid."""
    with fc.addprocs(Kubernetes(workers=2)) as (first, second):
        pod, waiting = server.pods.find(process_of(second)), fc.spawnat(second, lambda: threading.Event().wait())
        server.pods.kill(pod, late=2.5, reason="OOMKilled")
        with pytest.raises(fc.ProcessExited, match=r"OOMKilled: it needed .* its limit of 2Gi \(pod farcall-worker-"):
            waiting.result(20)
        assert until(lambda: fc.nworkers() == 2, 20)
        assert second not in fc.workers()
        assert fc.remotecall_fetch(max(fc.workers()), abs, -1) == 1
        assert first in fc.workers()
    assert f"worker {second} is gone: OOMKilled" in capfd.readouterr().err


def test_a_retired_worker_is_a_pod_less(server):
    """rmprocs(retire=True) closes it and has the Deployment make no other; without retire, the pod stays."""
    with fc.addprocs(Kubernetes(workers=2)) as (first, second):
        pod = server.pods.find(process_of(first))
        fc.rmprocs(second)
        assert replicas(server) == 2
        fc.rmprocs(first, retire=True)
        assert replicas(server) == 1
        assert until(lambda: [each["metadata"]["name"] for each in server.pods.all("worker")] != [pod], 20)
        assert until(lambda: pod not in [each["metadata"]["name"] for each in server.pods.all("worker")], 20)


def test_a_scheduler_that_does_not_listen_yet(server, monkeypatch):
    """It is waited for: its pages, which say that its pod is ready, are there before its port."""
    ready, late = server.reach, [("127.0.0.1", 1)] * 2
    monkeypatch.setattr(server, "reach", lambda pod, port: late.pop() if port == 8786 and late else ready(pod, port))
    with fc.addprocs(Kubernetes()) as pids:
        assert fc.remotecall_fetch(pids[0], abs, -1) == 1
    assert not late


def test_another_image_is_joined_when_it_runs(server):
    """What is there ends, the scheduler too, and is not taken for what was asked for; a pod that is no more is gone."""
    before = {each["metadata"]["name"] for each in server.pods.all("scheduler") + server.pods.all("worker")}
    with fc.addprocs(Kubernetes(workers=1, image="registry.example.org/ann/farcall:2")) as [pid]:
        assert server.pods.find(process_of(pid)) not in before
        assert not before & {each["metadata"]["name"] for each in server.pods.all("scheduler")}
        [pod] = [each for each in server.pods.all("worker") if each["metadata"]["name"] not in before]
        server.call(server.drop, pod)  # as of a node that is lost: the process may go on
        assert until(lambda: fc.workers() == [1])
        with pytest.raises(fc.ProcessExited, match=f"its pod {pod['metadata']['name']} was deleted"):
            fc.remotecall_fetch(pid, abs, -1)


def test_workers_that_find_no_room(server):
    """With at_least= the others go on, with a warning that says why; each that is missing is an error otherwise."""
    server.pods.states["worker"] = PENDING
    reason = r"1 workers have not come after 1 s: pod .* Insufficient cpu: ask for less"
    with pytest.warns(RuntimeWarning, match=reason), fc.addprocs(Kubernetes(workers=2), at_least=1, timeout=1) as pids:
        assert len(pids) == 1


def test_who_may_not_forward_ports(server):
    """The error says what the API server said of it."""
    server.refuse("GET", "portforward", 403, "forbidden", times=9)
    with pytest.raises(fc.LaunchError, match="The way through the API server: the API server said 403"):
        fc.addprocs(Kubernetes(), timeout=5)
