"""What the status of a pod means: why it does not start, and why it ended. Pods are as the API server tells them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..local import describe_exit
from .manifests import COMPONENT, Document, find_container

Pod: TypeAlias = Document

_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_NO_CONTAINER = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_CRASHED = "CrashLoopBackOff"
_DESCRIBE = "kubectl describe pod {pod} has more"
_PUSH = "push it to where the cluster's nodes pull from, and name it: image= (--image)"


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start, and what to do, where {pod} is its name. Many pods may have the same.

    ``is_final``: it will not start before somebody has done that. ``log_of_previous``: what its container printed last
    says more.
    """

    why: str
    what_to_do: str
    is_final: bool
    log_of_previous: bool = False


def name_of(pod: Pod) -> str:
    """Return the name of a pod."""
    return str(pod["metadata"]["name"])


def is_of(pod: Pod, component: str) -> bool:
    """Whether a pod is one of the scheduler's, the workers' or JupyterLab's."""
    return bool(pod["metadata"].get("labels", {}).get(COMPONENT) == component)


def address_of(pod: Pod) -> str | None:
    """Return the address of a pod that has one, and has not ended."""
    status = pod.get("status", {})
    return None if status.get("phase") in ("Succeeded", "Failed") else status.get("podIP")


def is_ready(pod: Pod) -> bool:
    """Whether a pod is up, and is to stay."""
    return "deletionTimestamp" not in pod["metadata"] and _condition(pod, "Ready").get("status") == "True"


def restarts_of(pod: Pod) -> int:
    """Return how often the container of a pod has been started again."""
    return int(_container(pod).get("restartCount", 0))


def say_state(pod: Pod) -> str:
    """Return the state of a pod in a word or two, as kubectl does."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    state = _container(pod).get("state", {})
    reasons = [pod.get("status", {}).get("reason"), *(each.get("reason") for each in state.values())]
    found = next(filter(None, reasons), None)
    return str(found or ("Ready" if is_ready(pod) else pod.get("status", {}).get("phase", "Unknown")))


def find_trouble(pod: Pod) -> Trouble | None:
    """Return what keeps a pod from starting, None if nothing does but time."""
    if "deletionTimestamp" in pod["metadata"] or is_ready(pod):
        return None
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        message = str(scheduled.get("message") or scheduled.get("reason", "")).rstrip(".")
        how = "ask for less (cpu=, memory=, gpu=, workers=), or add nodes"
        return Trouble(f"no node has room for it: {message}", how, is_final=False)
    container = _container(pod)
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _NO_IMAGE:
        why = f"{reason}: the image {container.get('image') or _spec(pod).get('image')} cannot be had: {message}"
        return Trouble(why, _PUSH, is_final=True)
    if reason in _NO_CONTAINER:
        return Trouble(f"{reason}: {message}", _DESCRIBE, is_final=True)
    ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
    if reason == _CRASHED and ended:
        how = "ask for more: memory= (--memory)" if ended.get("reason") == "OOMKilled" else "see what it printed"
        return Trouble(f"{_CRASHED}: {_explain_end(pod, ended)}", how, is_final=True, log_of_previous=True)
    if pod.get("status", {}).get("phase") == "Failed":
        return Trouble(_explain_failure(pod), _DESCRIBE, is_final=False)
    return None


def find_quota_trouble(deployment: Mapping[str, Any]) -> Trouble | None:
    """Return why a Deployment makes no pods, None if it does."""
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            how = "ask for less, or ask whoever runs the cluster for more"
            return Trouble(f"{condition.get('reason')}: {condition.get('message')}", how, is_final=True)
    return None


def why_ended(pod: Pod, restarts: int) -> str | None:
    """Return why the process ended that ran in a pod when that had been restarted so often; None if it has not."""
    status, container = pod.get("status", {}), _container(pod)
    if status.get("phase") == "Failed" and status.get("reason"):
        return _explain_failure(pod)
    ended = container.get("state", {}).get("terminated")
    if ended is None and int(container.get("restartCount", 0)) > restarts:
        ended = container.get("lastState", {}).get("terminated")
    if ended is None:
        return None
    going = why_leaving(pod) if ended.get("reason") != "OOMKilled" else None
    return going or f"{_explain_end(pod, ended)} (pod {name_of(pod)})"


def why_leaving(pod: Pod) -> str | None:
    """Return why a pod is to go, None if it is not."""
    target = _condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        return f"{target.get('reason')}: {target.get('message')}"
    if "deletionTimestamp" in pod["metadata"]:
        return why_deleted(pod)
    return None


def why_deleted(pod: Pod) -> str:
    """Return what is known of the end of a pod that is no more."""
    target = _condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        return f"{target.get('reason')}: {target.get('message')}"
    return f"its pod {name_of(pod)} was deleted: by kubectl scale, by a new version of the Deployment, or by hand"


def _explain_failure(pod: Pod) -> str:
    status = pod["status"]
    ended = _container(pod).get("state", {}).get("terminated") or {}
    return f"{status.get('reason') or 'Failed'}: {status.get('message') or _explain_end(pod, ended)}"


def _explain_end(pod: Pod, ended: Mapping[str, Any]) -> str:
    """Return how a container ended, in words."""
    if ended.get("reason") == "OOMKilled":
        limit = _spec(pod).get("resources", {}).get("limits", {}).get("memory")
        return "OOMKilled: it needed more memory than " + (f"its limit of {limit}" if limit else "there is")
    code = int(ended.get("exitCode", 0))
    how = describe_exit(128 - code if code > 128 else code, None, False)
    return f"{ended.get('reason') or 'Terminated'}: {how}"


def _condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    conditions: Iterable[Mapping[str, Any]] = pod.get("status", {}).get("conditions", ())
    return next((each for each in conditions if each.get("type") == kind), {})


def _container(pod: Pod) -> Mapping[str, Any]:
    """Return the status of the container of ours; a mesh may have put others beside it."""
    statuses: Iterable[Mapping[str, Any]] = pod.get("status", {}).get("containerStatuses", ())
    return next((each for each in statuses if each.get("name") == _spec(pod).get("name")), {})


def _spec(pod: Pod) -> Mapping[str, Any]:
    """Return what is asked for of the container of ours."""
    return find_container(pod, pod.get("spec", {}))
