"""Who we are to the API server of a Kubernetes cluster, and where that is: by a kubeconfig, or as a pod's account.

The official client reads kubeconfigs, with whatever they name to log in. In a pod nothing needs to be read but three
files, and the image does without that client, which is large.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..._errors import LaunchError

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_HOST, _PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"  # of every pod


@dataclass(frozen=True)
class Access:
    """How to speak to an API server; ``authorize`` returns what to say of oneself, which changes with time."""

    url: str
    namespace: str
    authorize: Callable[[], Mapping[str, str]] = field(repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str | None = None
    proxy: str | None = None
    is_inside: bool = False
    """Whether this process runs in a pod of the cluster, so that it reaches the others."""


def find_access(context: str | None, namespace: str | None) -> Access:
    """Return how this process gets to a cluster: the one whose pod it is in, else one of the kubeconfig.

    ``context`` is a name in the kubeconfig, its current one by default. LaunchError says what is missing.
    """
    if context is None and _HOST in os.environ and (_ACCOUNT / "token").exists():
        return _enter_as_pod(namespace)
    return _read_kubeconfig(context, namespace)


def _enter_as_pod(namespace: str | None) -> Access:
    host = os.environ[_HOST]
    host = f"[{host}]" if ":" in host else host
    return Access(
        f"https://{host}:{os.environ.get(_PORT, '443')}",
        namespace or (_ACCOUNT / "namespace").read_text().strip(),
        lambda: {"Authorization": f"Bearer {(_ACCOUNT / 'token').read_text().strip()}"},  # the kubelet renews the file
        ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        is_inside=True,
    )


def _read_kubeconfig(context: str | None, namespace: str | None) -> Access:
    try:
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException
    except ImportError as error:
        raise LaunchError(f"to read a kubeconfig takes more: pip install 'farcall[kubernetes]' ({error})") from None
    found = client.Configuration()
    files = os.environ.get("KUBECONFIG")  # as it is now, not as it was at the import
    try:
        contexts, current = config.list_kube_config_contexts(files)
        config.load_kube_config(files, context=context, client_configuration=found)
    except (ConfigException, OSError) as error:
        how = "put one where kubectl looks for it, ~/.kube/config or what KUBECONFIG names: kubectl config view"
        known = f"; contexts there: {_list(contexts)}" if context is not None and "contexts" in locals() else ""
        raise LaunchError(f"no way to a Kubernetes cluster in the kubeconfig ({error}){known}: {how}") from None
    chosen = current if context is None else next(each for each in contexts if each["name"] == context)

    def authorize() -> Mapping[str, str]:
        value = found.auth_settings().get("BearerToken", {}).get("value")  # logs in again when it must
        return {"Authorization": value} if value else {}

    return Access(
        found.host.rstrip("/"),
        namespace or chosen["context"].get("namespace") or "default",
        authorize,
        _make_tls(found) if found.host.startswith("https:") else None,
        found.tls_server_name,
        found.proxy,
    )


def _list(contexts: Any) -> str:
    return ", ".join(each["name"] for each in contexts)


def _make_tls(found: Any) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT  # CAs of many clusters lack what it asks for
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, found.key_file)
    if not found.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls
