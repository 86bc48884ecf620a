"""The kinds of objects that the operator reads, writes and watches."""

from dataclasses import dataclass

from dreambooth_api.codegen.schema import PLURAL
from dreambooth_api.schema.base import API_VERSION, KIND
from dreambooth_operator.manifests import names


@dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced kind of the Kubernetes API (meta/v1 APIResource)."""

    api_version: str
    name: str
    plural: str
    selector: str = ""
    """Label selector of the operator's objects; empty: all objects."""

    @property
    def group(self) -> str:
        """API group; empty for the core group (core/v1)."""
        return self.api_version.rpartition("/")[0]

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """URL path of an object, or of a list if there is no name; no namespace means all."""
        root = "apis" if self.group else "api"
        scope = f"namespaces/{namespace}" if namespace else ""
        parts = (root, self.api_version, scope, self.plural, name, subresource)
        return "/" + "/".join(part for part in parts if part)


DREAMBOOTH_JOB = Kind(API_VERSION, KIND, PLURAL)
JOB = Kind("batch/v1", "Job", "jobs", names.JOB_LABEL)
# Selected by label on the server: a cluster has many Jobs and pods of others.
POD = Kind("v1", "Pod", "pods", names.JOB_LABEL)
SERVICE = Kind("v1", "Service", "services", names.JOB_LABEL)
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps", names.JOB_LABEL)
EVENT = Kind("v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")

WATCHED = (DREAMBOOTH_JOB, JOB, POD, SERVICE, CONFIG_MAP)
APPLIED = {kind.name: kind for kind in (JOB, SERVICE, CONFIG_MAP)}
"""Kinds of children that are applied, by name."""
