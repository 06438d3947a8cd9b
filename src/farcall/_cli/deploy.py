"""farcall deploy: a scheduler, workers and JupyterLab on a Kubernetes cluster, how they are, and their end."""

import argparse
import sys
from typing import TYPE_CHECKING

import farcall as fc

if TYPE_CHECKING:
    from ..engines import Kubernetes

_DEPLOY = """Have a scheduler, workers and JupyterLab on a Kubernetes cluster, look at them, or delete them.

See docs/kubernetes.md. What kubectl finds in its kubeconfig is found here, too."""

_KUBERNETES = """Deploy a scheduler, workers and JupyterLab, and wait until the workers have joined.

Once more, it changes what is asked for otherwise, and nothing else. --dry-run prints what it applies, but for the
two Secrets, and asks nobody: farcall deploy kubernetes --dry-run | kubectl apply -f - does the same by hand."""

_NEXT = """
JupyterLab:  kubectl port-forward service/farcall-jupyter 8888 --namespace {namespace}
             then http://localhost:8888, with the token that this prints:
             kubectl get secret farcall-jupyter --namespace {namespace} \\
                 --output go-template='{{{{.data.token | base64decode}}}}'
There:       fc.addprocs(fc.engines.Kubernetes())
More:        kubectl scale deployment/farcall-worker --replicas=20 --namespace {namespace}
The end:     farcall deploy down --namespace {namespace}"""


def complete(deploy: argparse.ArgumentParser) -> None:
    """Give the parser of the command its description and its own commands."""
    deploy.description, raw = _DEPLOY, argparse.RawDescriptionHelpFormatter
    what = deploy.add_subparsers(dest="what", metavar="what", required=True)
    kubernetes = what.add_parser(
        "kubernetes", help="deploy, or change what is deployed", description=_KUBERNETES, formatter_class=raw
    )
    kubernetes.add_argument("--workers", type=int, metavar="N", help="how many pods with a worker (2)")
    kubernetes.add_argument("--image", metavar="IMAGE", help="what all pods run (farcall)")
    kubernetes.add_argument("--cpu", metavar="N", help="processors of each worker, such as 2 or 500m (1)")
    kubernetes.add_argument("--memory", metavar="SIZE", help="memory of each worker, such as 4Gi (2Gi)")
    kubernetes.add_argument("--gpu", type=int, metavar="N", help="GPUs of NVIDIA of each worker (0)")
    kubernetes.add_argument("--no-jupyter", action="store_true", help="without JupyterLab")
    kubernetes.add_argument("--dry-run", action="store_true", help="print it instead")
    status = what.add_parser("status", help="what is deployed, and how it is")
    down = what.add_parser("down", help="delete what was deployed, and nothing else")
    for each in (kubernetes, down):
        each.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="how long it may take (600)")
    for each in (kubernetes, status, down):
        each.add_argument("--namespace", "-n", metavar="NAME", help="the kubeconfig's by default")
        each.add_argument("--context", metavar="NAME", help="the kubeconfig's current one by default")


def run(options: argparse.Namespace) -> int:
    """Do what the command line asks for, and return the exit status."""
    try:
        return _COMMANDS[options.what](options)
    except (fc.LaunchError, ImportError, ValueError) as error:
        print(f"farcall: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


def _deploy(options: argparse.Namespace) -> int:
    sizes = {name: getattr(options, name) for name in ("workers", "image", "cpu", "memory", "gpu")}
    engine = _engine(options, **sizes)
    if options.dry_run:
        print(engine.manifests(jupyter=not options.no_jupyter), end="")
        return 0
    status = engine.deploy(jupyter=not options.no_jupyter, timeout=options.timeout, say=_say)
    print(status)
    if not options.no_jupyter:
        print(_NEXT.format(namespace=status.namespace))
    return 0


def _show(options: argparse.Namespace) -> int:
    status = _engine(options).status()
    if status is None:
        print("nothing of farcall's is deployed there: farcall deploy kubernetes --namespace NAME", file=sys.stderr)
        return 1
    print(status)
    return 0 if status.is_complete else 1


def _remove(options: argparse.Namespace) -> int:
    if not _engine(options).down(timeout=options.timeout, say=_say):
        print("nothing of farcall's is deployed there")
    return 0


def _engine(options: argparse.Namespace, **sizes: object) -> "Kubernetes":
    return fc.engines.Kubernetes(namespace=options.namespace, context=options.context, **sizes)  # type: ignore[arg-type]


def _say(text: str) -> None:
    print(text, flush=True)


_COMMANDS = {"kubernetes": _deploy, "status": _show, "down": _remove}
