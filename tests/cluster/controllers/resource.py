"""The kinds of objects that the controllers know, and where the API server has them."""

from dataclasses import dataclass

from tests.cluster.client import Object

FORBIDDEN, NOT_FOUND, CONFLICT, GONE = 403, 404, 409, 410
"""Codes of answers."""

JSON_PATCH = "json-patch+json"
MERGE_PATCH = "merge-patch+json"


@dataclass(frozen=True)
class Resource:
    """A kind of object that the server keeps, and where it is found."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """The path of a collection, of one object (with `name`) or of its subresource."""
        prefix = f"apis/{self.api_version}" if self.group else f"api/{self.api_version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        parts = [prefix + place, self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    def path_of(self, object_: Object, subresource: str = "") -> str:
        """The path of an object that is known."""
        meta = object_["metadata"]
        return self.path(meta.get("namespace"), meta["name"], subresource)


PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Resource("", "v1", "events", "Event")
JOBS = Resource("batch", "v1", "jobs", "Job")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
