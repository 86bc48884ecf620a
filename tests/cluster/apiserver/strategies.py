"""What each resource does with a new object and with an update, beside storing it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

from tests.cluster.apiserver import admission, jobs, metadata, pod_admission
from tests.cluster.apiserver.errors import Cause, bad_value, forbidden, not_allowed, required
from tests.cluster.apiserver.resources import DEFINITION, Json, Resource
from tests.cluster.apiserver.settings import Settings
from tests.cluster.apiserver.store import Store

POD_MUTABLE = ("activeDeadlineSeconds", "tolerations", "schedulingGates")
FIRST_STATUS: dict[str, Json] = {
    "jobs.batch": {},
    "services": {"loadBalancer": {}},
    "namespaces": {"phase": "Active"},
    "deployments.apps": {},
    "replicasets.apps": {"replicas": 0},
    "poddisruptionbudgets.policy": {
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    },
}
KEEPS_STATUS = {"nodes"}
"""A kubelet registers its node with the status that it has."""
NOT_READY = "node.kubernetes.io/not-ready"
SYSTEM_PRIORITIES = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}


def prepare_new(store: Store, resource: Resource, content: Json, settings: Settings) -> None:
    """Set what the server decides about a new object; changes it in place."""
    if resource.status and resource.qualified not in KEEPS_STATUS:
        content.pop("status", None)
        if resource.qualified in FIRST_STATUS:
            content["status"] = deepcopy(FIRST_STATUS[resource.qualified])
    if resource.qualified == "pods":
        _prepare_pod(store, content, settings.toleration_seconds)
        pod_admission.check_new_pod(store, content)
    elif resource.qualified == "jobs.batch":
        jobs.prepare(content)
    elif resource.qualified == "nodes":
        _prepare_node(content)
    elif resource.qualified == "customresourcedefinitions.apiextensions.k8s.io":
        content["status"] = established(content)


def _prepare_pod(store: Store, content: Json, toleration_seconds: int) -> None:
    spec = content["spec"]
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    if "priority" not in spec:
        spec["priority"] = _priority(
            store, content["metadata"]["name"], spec.get("priorityClassName", "")
        )
    tolerations = spec.setdefault("tolerations", [])
    for key in (NOT_READY, "node.kubernetes.io/unreachable"):
        if not any(one.get("key") in (None, key) for one in tolerations):
            tolerations.append(
                {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": toleration_seconds,
                }
            )
    content["status"] = {"phase": "Pending", "qosClass": quality_of_service(spec)}


def _prepare_node(content: Json) -> None:
    """A new node is not ready, and is tainted so until the node controller finds it ready."""
    taints = content.setdefault("spec", {}).setdefault("taints", [])
    if not any(one["key"] == NOT_READY for one in taints):
        taints.append({"key": NOT_READY, "effect": "NoSchedule"})


def _priority(store: Store, pod: str, name: str) -> int:
    if name in SYSTEM_PRIORITIES:
        return SYSTEM_PRIORITIES[name]
    classes = [stored.content for stored in store.named("priorityclasses.scheduling.k8s.io")]
    chosen = [one for one in classes if one["metadata"]["name"] == name]
    if name and not chosen:
        raise forbidden("pods", pod, f"no PriorityClass with name {name} was found")
    chosen = chosen or [one for one in classes if one.get("globalDefault")]
    return int(chosen[0]["value"]) if chosen else 0


def quality_of_service(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from the containers' CPU and memory."""
    pairs = []
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        pairs += [
            (limits.get(one), requests.get(one, limits.get(one))) for one in ("cpu", "memory")
        ]
    if all(limit is None and request is None for limit, request in pairs):
        return "BestEffort"
    guaranteed = all(limit and limit == request for limit, request in pairs)
    return "Guaranteed" if guaranteed else "Burstable"


def established(definition: Json) -> Json:
    """The status of a CustomResourceDefinition that is served at once."""
    time = metadata.now()
    conditions = [
        {
            "type": kind,
            "status": "True",
            "lastTransitionTime": time,
            "reason": reason,
            "message": message,
        }
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    spec = definition["spec"]
    stored = [version["name"] for version in spec["versions"] if version["storage"]]
    return {"conditions": conditions, "acceptedNames": spec["names"], "storedVersions": stored}


def merged_update(resource: Resource, old: Json, new: Json, subresource: str) -> Json:
    """The new state: each endpoint writes only its part; generation counts the desired state."""
    if subresource == "status":
        result = _with_status(resource, old, new)
    elif subresource == "finalize":
        finalizers = (new.get("spec") or {}).get("finalizers")
        spec = {"finalizers": finalizers} if finalizers else {}
        result = {**old, "spec": spec, "metadata": new["metadata"]}
    else:
        result = _without_status(resource, old, new)
    result["metadata"] = metadata.for_update(old["metadata"], result["metadata"])
    if resource.generation and _desired(resource, old) != _desired(resource, result):
        result["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
    return result


def _with_status(resource: Resource, old: Json, new: Json) -> Json:
    """The old state with the new status; a custom resource's metadata stays too, a pod's owners."""
    meta = new["metadata"]
    if resource.custom:
        meta = old["metadata"]
    elif resource.qualified == "pods" and "ownerReferences" in old["metadata"]:
        meta = meta | {"ownerReferences": old["metadata"]["ownerReferences"]}
    result = {**old, "metadata": meta, "status": new.get("status")}
    return {key: value for key, value in result.items() if value is not None}


def _without_status(resource: Resource, old: Json, new: Json) -> Json:
    """The new state with the old status; a namespace is finalized elsewhere."""
    result = {key: value for key, value in new.items() if value is not None}
    kept = {"status"} if resource.status else set()
    if resource.qualified == "namespaces":
        kept.add("spec")
    return {key: value for key, value in result.items() if key not in kept} | {
        key: old[key] for key in kept if key in old
    }


def _desired(resource: Resource, content: Json) -> Json:
    """All but the metadata and what is observed."""
    left_out = ("metadata", "status") if resource.status else ("metadata",)
    return {key: value for key, value in content.items() if key not in left_out}


def faults(resource: Resource, content: Json) -> Iterator[Cause]:
    """What is wrong with a new object, beyond its schema."""
    if resource.qualified == "pods":
        yield from container_faults(content["spec"], "spec")
    elif resource.kind == DEFINITION:
        yield from definition_faults(content["spec"])
    elif resource.qualified == "services":
        yield from port_faults(content)
    elif resource.qualified == "jobs.batch":
        yield from container_faults(content["spec"]["template"]["spec"], "spec.template.spec")
        yield from jobs.faults(content)


def port_faults(content: Json) -> Iterator[Cause]:
    """Ports of a service with the same port and protocol."""
    ports = content["spec"].get("ports") or []
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            yield required(f"spec.ports[{index}].name")


def definition_faults(spec: Json) -> Iterator[Cause]:
    """Versions of a definition whose defaults do not hold."""
    for version in spec["versions"]:
        schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        yield from admission.default_faults(schema, "spec.validation.openAPIV3Schema")


def container_faults(spec: Json, path: str) -> Iterator[Cause]:
    """Containers without an image."""
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or []):
            if not container.get("image"):
                yield required(f"{path}.{kind}[{index}].image")


def update_faults(resource: Resource, old: Json, new: Json, version: str) -> Iterator[Cause]:
    """What an update may not change, on a server of a version."""
    yield from metadata.update_faults(old["metadata"], new["metadata"])
    if resource.qualified == "jobs.batch":
        yield from jobs.update_faults(old, new, version)
    elif resource.qualified == "pods":
        yield from _pod_update_faults(old, new)
    elif resource.qualified == "services":
        before, after = old["spec"].get("clusterIP"), new["spec"].get("clusterIP")
        if before and after != before:
            yield bad_value("spec.clusterIPs[0]", [after], "may not change once set")
    elif resource.qualified == "secrets" and old.get("type") != new.get("type"):
        yield bad_value("type", new.get("type"), "field is immutable")
    elif resource.qualified == "configmaps" and old.get("immutable"):
        same = all(old.get(part) == new.get(part) for part in ("data", "binaryData", "immutable"))
        if not same:
            yield not_allowed("data", "field is immutable when `immutable` is set")


def _pod_update_faults(old: Json, new: Json) -> Iterator[Cause]:
    if _fixed_pod(old["spec"]) != _fixed_pod(new["spec"]):
        yield not_allowed(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only "
            "additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to "
            "be set to 1 if it was previously negative)",
        )


def _fixed_pod(spec: Json) -> Json:
    def imageless(containers: list[Json] | None) -> list[Json]:
        return [{k: v for k, v in one.items() if k != "image"} for one in containers or []]

    kept = {key: value for key, value in spec.items() if key not in POD_MUTABLE}
    return kept | {kind: imageless(spec.get(kind)) for kind in ("containers", "initContainers")}
