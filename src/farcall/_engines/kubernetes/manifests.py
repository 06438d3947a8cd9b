"""What is deployed: the documents of deploy/kubernetes, with what was asked for changed in them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TypeAlias

import yaml

Document: TypeAlias = dict[str, Any]

COMPONENT = "app.kubernetes.io/component"
LABELS = {"app.kubernetes.io/name": "farcall", "app.kubernetes.io/managed-by": "farcall"}
SCHEDULER, WORKER, JUPYTER = "farcall-scheduler", "farcall-worker", "farcall-jupyter"
TLS = "farcall-tls"  # the Secret with the certificate of all
SCHEDULER_PORT, STATUS_PORT = 8786, 8787
GPU = "nvidia.com/gpu"

_FOLDER = "manifests"  # a link to deploy/kubernetes in the source tree, a folder of the package once it is installed
_QUANTITY = re.compile(r"\d+(\.\d+)?([mkMGTPE]|[KMGTPE]i)?")


@dataclass(frozen=True)
class Wanted:
    """What differs from the documents; None leaves it as it is. ``gpu``: how many of each worker, 0 for none."""

    workers: int | None = None
    image: str | None = None
    cpu: str | None = None
    memory: str | None = None
    gpu: int | None = None

    @classmethod
    def read(
        cls,
        workers: int | None = None,
        image: str | None = None,
        cpu: float | str | None = None,
        memory: float | str | None = None,
        gpu: int | None = None,
    ) -> "Wanted":
        """Return what a user asks for; ValueError names what Kubernetes would not understand."""
        for name, count in (("workers", workers), ("gpu", gpu)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                raise ValueError(f"{name}={count!r}: write how many, a whole number from 0 on")
        if image is not None and (not image or any(each.isspace() for each in image)):
            raise ValueError(f"image={image!r} names no image: write 'registry.example.org/farcall:1'")
        return cls(workers, image, _quantity("cpu", cpu, "2 or '500m'"), _quantity("memory", memory, "'4Gi'"), gpu)

    def or_else(self, other: "Wanted") -> "Wanted":
        """Return this with what is not said in it from another."""
        missing = {name: value for name, value in vars(other).items() if getattr(self, name) is None}
        return replace(self, **missing)


def _quantity(name: str, given: float | str | None, example: str) -> str | None:
    if given is None:
        return None
    if isinstance(given, bool) or not _QUANTITY.fullmatch(str(given)) or not re.search("[1-9]", str(given)):
        raise ValueError(f"{name}={given!r} is no quantity of Kubernetes: write {example}")
    return str(given)


def render(wanted: Wanted, *, jupyter: bool = True, namespace: str | None = None) -> list[Document]:
    """Return all documents, in the order in which they are applied."""
    documents = [
        _change(document, wanted, namespace)
        for document in _read()
        if jupyter or document["metadata"]["labels"].get(COMPONENT) != "jupyter"
    ]
    return sorted(documents, key=lambda each: each["kind"] == "Deployment")  # last what uses the others


def write(documents: list[Document]) -> str:
    """Return documents as text for ``kubectl apply -f -``."""
    return str(yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, default_flow_style=False))


def find_wanted(worker: Document) -> Wanted:
    """Return what a Deployment of workers says of what can be asked for."""
    container = find_container(worker, worker["spec"]["template"]["spec"])
    limits = container.get("resources", {}).get("limits", {})
    count = worker["spec"].get("replicas")
    return Wanted(count, container.get("image"), limits.get("cpu"), limits.get("memory"), int(limits.get(GPU, 0)))


def find_container(owner: Document, pod: Document) -> Document:
    """Return our container of a pod's specification; somebody may have put others beside it."""
    component = owner["metadata"].get("labels", {}).get(COMPONENT)
    return next((each for each in pod.get("containers", ()) if each["name"] == component), {})


def select(component: str | None = None) -> str:
    """Return the selector of what is ours, or of one component of it: scheduler, worker or jupyter."""
    labels = LABELS | ({COMPONENT: component} if component else {})
    return ",".join(f"{name}={value}" for name, value in labels.items())


def make_secret(name: str, texts: dict[str, str], *, tls: bool = False) -> Document:
    """Return the document of a Secret."""
    kind = "kubernetes.io/tls" if tls else "Opaque"
    metadata = {"name": name, "labels": dict(LABELS)}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "stringData": texts}


def _read() -> Iterator[Document]:
    """Yield the documents as they are, those that the kustomization names."""
    folder = files(__package__.rpartition(".")[0]) / _FOLDER
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        yield from yaml.safe_load_all((folder / name).read_text())


def _change(document: Document, wanted: Wanted, namespace: str | None) -> Document:
    document = json.loads(json.dumps(document))  # a copy in which nothing is there twice: YAML has references
    if namespace is not None:
        document["metadata"]["namespace"] = namespace
    if document["kind"] != "Deployment":
        return document
    container = find_container(document, document["spec"]["template"]["spec"])
    if wanted.image is not None:
        container["image"] = wanted.image
    if document["metadata"]["name"] == WORKER:
        if wanted.workers is not None:
            document["spec"]["replicas"] = wanted.workers
        sizes = {"cpu": wanted.cpu, "memory": wanted.memory, GPU: str(wanted.gpu) if wanted.gpu else None}
        for each in ("requests", "limits"):
            container["resources"][each] |= {name: size for name, size in sizes.items() if size is not None}
    return document


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # it has no types
    """Writes what is there twice twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
