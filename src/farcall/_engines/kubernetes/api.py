"""The objects of a namespace, as the API server of a Kubernetes cluster keeps them."""

from collections.abc import Callable

from .connection import ApiError, Connection
from .manifests import Document

_KINDS = {  # where the objects of each kind are
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
}
_MANAGER = "farcall"  # by this name the server knows which fields are ours
_APPLY = "application/apply-patch+yaml"  # JSON is YAML


class Api:
    """The objects of one namespace. Every method blocks; ApiError says what the server did not do, and why."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace = connection.access.namespace

    def __repr__(self) -> str:
        return f"<Api of {self._connection.access.url}, namespace {self._namespace}>"

    def path(self, kind: str, *parts: str) -> str:
        """Return where the objects of a kind are, or one of them, or a part of it."""
        return "/".join([_KINDS[kind].format(self._namespace), *parts])

    def find(self, kind: str, *parts: str) -> Document | None:
        """Return an object by its name, or a part of it such as its scale; None if there is none."""
        try:
            found: Document = self._connection.request("GET", self.path(kind, *parts))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found

    def list(self, kind: str, labels: str) -> list[Document]:
        """Return the objects of a kind that bear some labels."""
        return list(self._connection.request("GET", self.path(kind), query={"labelSelector": labels})["items"])

    def apply(self, document: Document) -> None:
        """Have an object be as the document says, whoever has said otherwise. Again changes nothing."""
        path = self.path(document["kind"], document["metadata"]["name"])
        query = {"fieldManager": _MANAGER, "force": "true"}
        self._connection.request("PATCH", path, query=query, body=document, content=_APPLY)

    def create(self, document: Document) -> None:
        """Make an object; one of that name which is there stays as it is."""
        try:
            self._connection.request(
                "POST", self.path(document["kind"]), query={"fieldManager": _MANAGER}, body=document
            )
        except ApiError as error:
            if error.code != 409:
                raise

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and, some time later, what it owns. None of that name is no error."""
        try:
            self._connection.request("DELETE", self.path(kind, name), query={"propagationPolicy": "Background"})
        except ApiError as error:
            if error.code != 404:
                raise

    def scale(self, name: str, count: Callable[[int], int]) -> None:
        """Have a Deployment have so many pods, given how many it is to have now."""
        path = self.path("Deployment", name, "scale")
        while True:
            scale = self._connection.request("GET", path)
            scale["spec"]["replicas"] = count(int(scale["spec"].get("replicas", 0)))
            try:
                self._connection.request("PUT", path, body=scale)
            except ApiError as error:
                if error.code != 409:
                    raise
            else:
                return

    def read_log(self, pod: str, container: str, *, previous: bool, lines: int) -> str:
        """Return the last lines that a container printed; or the one before, if it has been started again."""
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        return self._connection.run(self._connection.ask("GET", self.path("Pod", pod, "log"), query=query)).rstrip()
