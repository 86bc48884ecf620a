"""What is served: the built-in resources, and those that CustomResourceDefinitions add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DEFINITION = "CustomResourceDefinition"
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, eq=False)
class Resource:
    """A served resource: names, scope and the rules that its objects follow."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    """Has a /status subresource: status is written there and nowhere else."""
    generation: bool = False
    """metadata.generation counts the changes of the desired state."""
    versioned: bool = False
    """An update has to say which version it is of."""
    subresources: dict[str, str] = field(default_factory=dict)
    """Further subresources and the kind that they take."""
    verbs: tuple[str, ...] = VERBS
    schema: Json | None = None
    """Structural schema of a custom resource; None for a built-in one."""
    columns: tuple[Json, ...] = ()
    """additionalPrinterColumns of a custom resource."""
    selectable: tuple[str, ...] = ()
    """selectableFields of a custom resource, as field selectors name them: spec.suspend."""
    list_kind: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`jobs.batch`, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified_kind(self) -> str:
        """`Job.batch`, as messages about invalid objects name it."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def custom(self) -> bool:
        return self.schema is not None


def _builtin(
    group_version: str, kind: str, plural: str, short_names: str = "", **rules: Any
) -> Resource:
    group, _, version = group_version.rpartition("/")
    return Resource(
        group, version, kind, plural, kind.lower(), short_names=tuple(short_names.split()), **rules
    )


LIVE: Json = {"status": True, "generation": True}
CLUSTER: Json = {"namespaced": False}
ALL: Json = {"categories": ("all",)}
POD_SUBRESOURCES = {"binding": "Binding", "eviction": "Eviction", "log": "Pod"}
RBAC = "rbac.authorization.k8s.io/v1"

BUILTIN = (
    _builtin("v1", "Namespace", "namespaces", "ns", status=True, **CLUSTER),
    _builtin("v1", "Node", "nodes", "no", status=True, **CLUSTER),
    _builtin("v1", "Pod", "pods", "po", subresources=POD_SUBRESOURCES, **LIVE, **ALL),
    _builtin("v1", "Service", "services", "svc", status=True, **ALL),
    _builtin("v1", "Endpoints", "endpoints", "ep"),
    _builtin("v1", "ConfigMap", "configmaps", "cm"),
    _builtin("v1", "Secret", "secrets"),
    _builtin("v1", "Event", "events", "ev"),
    _builtin("v1", "ServiceAccount", "serviceaccounts", "sa"),
    _builtin("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", status=True),
    _builtin("v1", "ResourceQuota", "resourcequotas", "quota", status=True),
    _builtin("v1", "LimitRange", "limitranges", "limits"),
    _builtin("apps/v1", "Deployment", "deployments", "deploy", **LIVE, **ALL),
    _builtin("apps/v1", "ReplicaSet", "replicasets", "rs", **LIVE, **ALL),
    _builtin("batch/v1", "Job", "jobs", **LIVE, **ALL),
    _builtin("coordination.k8s.io/v1", "Lease", "leases", versioned=True),
    _builtin("events.k8s.io/v1", "Event", "events", "ev"),
    _builtin("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "netpol", generation=True),
    _builtin(
        "policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", versioned=True, **LIVE
    ),
    _builtin(RBAC, "Role", "roles"),
    _builtin(RBAC, "RoleBinding", "rolebindings"),
    _builtin(RBAC, "ClusterRole", "clusterroles", **CLUSTER),
    _builtin(RBAC, "ClusterRoleBinding", "clusterrolebindings", **CLUSTER),
    _builtin(
        "scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", generation=True, **CLUSTER
    ),
    _builtin(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "crd crds",
        **LIVE,
        **CLUSTER,
    ),
    _builtin(
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        verbs=("create",),
        **CLUSTER,
    ),
)


class Registry:
    """Every served resource, by group, version and plural."""

    def __init__(self) -> None:
        self._served = {(r.group, r.version, r.plural): r for r in BUILTIN}

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._served.values())

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._served.get((group, version, plural))

    def custom(self, group: str, plural: str) -> list[Resource]:
        """The versions of a custom resource."""
        return [r for r in self if r.custom and (r.group, r.plural) == (group, plural)]

    def define(self, definition: Json) -> None:
        """Serve what a CustomResourceDefinition defines, in place of what it defined before."""
        self.forget(definition)
        for resource in custom_resources(definition["spec"]):
            self._served[resource.group, resource.version, resource.plural] = resource

    def forget(self, definition: Json) -> None:
        spec = definition["spec"]
        for resource in self.custom(spec["group"], spec["names"]["plural"]):
            del self._served[resource.group, resource.version, resource.plural]


def custom_resources(spec: Json) -> Iterator[Resource]:
    """A resource for each served version of a CustomResourceDefinition's spec."""
    names = spec["names"]
    for version in spec["versions"]:
        if not version["served"]:
            continue
        yield Resource(
            group=spec["group"],
            version=version["name"],
            kind=names["kind"],
            plural=names["plural"],
            singular=names.get("singular", names["kind"].lower()),
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames", ())),
            categories=tuple(names.get("categories", ())),
            status="status" in version.get("subresources", {}),
            generation=True,
            versioned=True,
            schema=version["schema"]["openAPIV3Schema"],
            columns=tuple(version.get("additionalPrinterColumns", ())),
            selectable=tuple(
                field["jsonPath"].removeprefix(".") for field in version.get("selectableFields", ())
            ),
            list_kind=names.get("listKind", ""),
        )
