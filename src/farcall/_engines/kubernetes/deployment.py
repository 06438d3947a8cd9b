"""What of ours is in a namespace: it is applied, looked at, waited for, and deleted."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..._errors import LaunchError
from .api import Api
from .connection import ApiError, Connection
from .forward import Forwards
from .manifests import (
    JUPYTER,
    STATUS_PORT,
    TLS,
    WORKER,
    Document,
    Wanted,
    find_container,
    find_wanted,
    make_secret,
    render,
    select,
)
from .pods import Trouble, find_quota_trouble, find_trouble, is_ready, name_of, restarts_of, say_state

Say = Callable[[str], None]

_DELETED = (  # first what makes pods, last what they use
    "Deployment",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "Service",
    "RoleBinding",
    "Role",
    "ServiceAccount",
    "Secret",
)
_INTERVAL = 0.5  # seconds between two looks
_LOG = 10  # lines of a log that an error shows
_COUNTS = "/json/counts.json"  # of the scheduler's pages: how many workers have come


@dataclass(frozen=True)
class PodState:
    """A pod, as a line of ``farcall deploy status``."""

    name: str
    state: str
    restarts: int
    node: str


@dataclass(frozen=True)
class Status:
    """What there is of ours in a namespace. ``joined``: workers that the scheduler has; None if it does not say."""

    namespace: str
    image: str
    workers: int
    joined: int | None
    pods: tuple[PodState, ...]
    troubles: tuple[str, ...]
    """What keeps pods from starting, and what to do."""
    is_complete: bool
    """Whether everything runs as it was asked for last."""

    def __str__(self) -> str:
        joined = "?" if self.joined is None else self.joined
        rows = [("POD", "STATE", "RESTARTS", "NODE")]
        rows += [(each.name, each.state, str(each.restarts), each.node) for each in self.pods]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        head = f"namespace {self.namespace}, image {self.image}: {joined} of {self.workers} workers have joined"
        return "\n".join([head, *table, *self.troubles])


class Deployment:
    """The objects of ours in the namespace of a connection. Every method blocks, and raises ApiError."""

    def __init__(self, connection: Connection) -> None:
        self.api = Api(connection)
        self.forwards = Forwards(connection)
        self.access = connection.access
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Deployment in namespace {self.access.namespace} of {self.access.url}>"

    def apply(self, wanted: Wanted, *, jupyter: bool) -> None:
        """Have all be there and be as asked for; what is not asked for stays as it is. Again changes nothing."""
        present = self.api.find("Deployment", WORKER)
        if present is not None:
            wanted = wanted.or_else(find_wanted(present))
        self._create_secrets(jupyter)
        for document in render(wanted, jupyter=jupyter):
            self.api.apply(document)

    def count(self) -> int | None:
        """Return how many workers there are to be; None if nothing is deployed."""
        scale = self.api.find("Deployment", WORKER, "scale")
        return None if scale is None else int(scale["spec"].get("replicas", 0))

    def is_rolled_out(self, component: str) -> bool:
        """Whether the pods of a component are those that were asked for last, and ready."""
        return all(map(_is_rolled_out, self.api.list("Deployment", select(component))))

    def pods(self, component: str | None = None) -> list[Document]:
        """Return our pods, or those of a component."""
        return sorted(self.api.list("Pod", select(component)), key=name_of)

    def look(self) -> Status | None:
        """Return what there is; None if there is nothing."""
        deployments = {each["metadata"]["name"]: each for each in self.api.list("Deployment", select())}
        if WORKER not in deployments:
            return None
        asked = find_wanted(deployments[WORKER])
        pods, joined, workers = tuple(map(_describe, self.pods())), self.count_joined(), asked.workers or 0
        troubles = tuple(_say(*each) for each in self._troubles(None))
        complete = all(map(_is_rolled_out, deployments.values())) and joined is not None and joined >= workers
        return Status(self.access.namespace, asked.image or "", workers, joined, pods, troubles, complete)

    def wait(self, timeout: float, say: Say) -> Status:
        """Return when all runs and the workers have joined, and say how it goes on. LaunchError, with what to do."""
        deadline, said = time.monotonic() + timeout, ""
        while True:
            status = self.look()
            if status is None:
                raise LaunchError(
                    f"nothing of farcall's is left in namespace {self.access.namespace}: somebody deletes it"
                )
            progress = _say_progress(status)
            if progress != said:
                say(progress)
                said = progress
            if status.is_complete:
                return status
            if self.is_hopeless():
                raise LaunchError(f"{progress}\n{self.explain()}")
            if time.monotonic() > deadline:
                failure = self.forwards.failure
                unasked = f"the scheduler cannot be asked who has joined: {failure}" if failure else ""
                why = self.explain() or unasked or "give it more time: timeout= (--timeout)"
                raise LaunchError(f"after {timeout:g} s {progress}\n{why}")
            time.sleep(_INTERVAL)

    def explain(self, component: str | None = None) -> str:
        """Return why pods do not start, with what to do; empty if there is nothing but to wait."""
        return "\n".join(
            _say(trouble, count, pod) + self._read_log(trouble, pod)
            for trouble, count, pod in self._troubles(component)
        )

    def is_hopeless(self, component: str | None = None) -> bool:
        """Whether pods will not start before somebody has done something."""
        return any(trouble.is_final for trouble, _, _ in self._troubles(component))

    def count_joined(self) -> int | None:
        """Return how many workers the scheduler has, None if it does not run or cannot be asked."""
        ready = [pod for pod in self.pods("scheduler") if is_ready(pod)]
        if not ready:
            return None
        local = self.forwards.open(lambda: self.path_to_ports(name_of(ready[0])), STATUS_PORT)
        try:
            counts = self._connection.run(self._connection.read(f"http://127.0.0.1:{local}{_COUNTS}"))
            return int(counts["workers"])
        except (OSError, KeyError):
            return None
        finally:
            self.forwards.withdraw(local)

    def path_to_ports(self, pod: str) -> str:
        """Return where the server has the ports of a pod."""
        return self.api.path("Pod", pod, "portforward")

    def remove(self, say: Say, timeout: float) -> int:
        """Delete what bears our labels, wait until the pods are gone, and return how many objects there were."""
        found = [(kind, name_of(each)) for kind in _DELETED for each in self.api.list(kind, select())]
        for kind, name in found:
            self.api.delete(kind, name)
            say(f"deleted {kind} {name}")
        deadline, left = time.monotonic() + timeout, -1
        while pods := self.pods():
            if len(pods) != left:
                left = len(pods)
                say(f"{left} pods are still ending")
            if time.monotonic() > deadline:
                raise LaunchError(f"after {timeout:g} s pods have not ended: {', '.join(map(name_of, pods))}")
            time.sleep(_INTERVAL)
        return len(found)

    # What is not for others

    def _create_secrets(self, jupyter: bool) -> None:
        """Make the certificate, and the token of JupyterLab, unless they are there."""
        if self.api.find("Secret", TLS) is None:
            from ..certificates import make_certificate

            ca, certificate, key = make_certificate(secrets.token_bytes(32))
            self.api.create(make_secret(TLS, {"ca.crt": ca, "tls.crt": certificate, "tls.key": key or ""}, tls=True))
        if jupyter and self.api.find("Secret", JUPYTER) is None:
            self.api.create(make_secret(JUPYTER, {"token": secrets.token_hex(24)}))

    def _troubles(self, component: str | None) -> Iterator[tuple[Trouble, int, Document | None]]:
        """Yield what keeps pods from starting, how many of them, and one; of those that are as was asked for last."""
        deployments = [each for each in self.api.list("Deployment", select(component)) if not _is_rolled_out(each)]
        pods = [pod for pod in self.pods(component) if any(_is_of(pod, each) for each in deployments)]
        found = {name_of(pod): find_trouble(pod) for pod in pods}
        counts = Counter(each for each in found.values() if each is not None)
        for trouble, count in counts.items():
            yield trouble, count, next(pod for pod in pods if found[name_of(pod)] == trouble)
        for each in deployments:
            trouble_of_all = find_quota_trouble(each)
            if trouble_of_all is not None:
                yield trouble_of_all, 0, None

    def _read_log(self, trouble: Trouble, pod: Document | None) -> str:
        if not trouble.log_of_previous or pod is None:
            return ""
        try:
            log = self.api.read_log(name_of(pod), find_container(pod, pod["spec"])["name"], previous=True, lines=_LOG)
        except ApiError as error:
            return f"\n(what it printed cannot be read: {error})"
        return f"\nits last lines:\n{log}" if log else "\nit has printed nothing"


def _describe(pod: Document) -> PodState:
    return PodState(name_of(pod), say_state(pod), restarts_of(pod), pod.get("spec", {}).get("nodeName", ""))


def _say(trouble: Trouble, count: int, pod: Document | None) -> str:
    name = "" if pod is None else name_of(pod)
    others = f" (and {count - 1} more)" if count > 1 else ""
    return f"{f'pod {name}' if name else 'no pod'}{others}: {trouble.why}: {trouble.what_to_do.format(pod=name)}"


def _is_rolled_out(deployment: Document) -> bool:
    """Whether the pods of a Deployment are all there, are ready, and are as it says."""
    wanted, status = deployment["spec"].get("replicas", 1), deployment.get("status", {})
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return bool(status.get("observedGeneration") == deployment["metadata"].get("generation") and counts == [wanted] * 3)


def _is_of(pod: Document, deployment: Document) -> bool:
    """Whether a pod is of the present version of a Deployment."""
    labels = deployment["spec"]["selector"]["matchLabels"]
    wanted = find_container(deployment, deployment["spec"]["template"]["spec"])
    has = find_container(pod, pod["spec"])
    limits = has.get("resources", {}).get("limits", {})
    return bool(
        labels.items() <= pod["metadata"].get("labels", {}).items()
        and has.get("image") == wanted.get("image")
        and wanted.get("resources", {}).get("limits", {}).items() <= limits.items()
    )


def _say_progress(status: Status) -> str:
    """Return in a line how far everything is."""
    others = Counter(each.state for each in status.pods if each.state != "Ready")
    ready = sum(each.state == "Ready" for each in status.pods)
    states = ", ".join(f"{count} {state}" for state, count in sorted(others.items()))
    joined = 0 if status.joined is None else status.joined
    return f"{joined} of {status.workers} workers have joined; pods: {ready} ready" + (f", {states}" if states else "")
