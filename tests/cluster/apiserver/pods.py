"""The subresources of a pod: binding, eviction, log."""

from __future__ import annotations

from tests.cluster.apiserver import metadata
from tests.cluster.apiserver.deletion import Deleter
from tests.cluster.apiserver.errors import bad_request, conflict, not_found, success
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json
from tests.cluster.apiserver.store import Store

LOG_ANNOTATION = "double.dreambooth.dev/log"
"""A node agent may keep a pod's log here; /log answers with it."""


class Pods:
    """What can be done to a pod beside writing it."""

    def __init__(self, store: Store, deleter: Deleter) -> None:
        self._store = store
        self._deleter = deleter

    def bind(self, call: ApiRequest) -> Json:
        """Put a pod on a node (what a scheduler does)."""
        pod = self._found(call)
        name = call.object.get("target", {}).get("name", "")
        if not name:
            raise bad_request("a Binding needs target.name")
        if pod["spec"].get("nodeName"):
            why = f'pod {call.name} is already assigned to node "{pod["spec"]["nodeName"]}"'
            raise conflict("pods/binding", call.name, why)
        bound = {**pod, "spec": pod["spec"] | {"nodeName": name}}
        self._store.put(call.resource, with_condition(bound, type="PodScheduled", status="True"))
        return success(201)

    def evict(self, call: ApiRequest) -> Json:
        """Mark a pod as disrupted and delete it. Disruption budgets are not looked at."""
        pod = self._found(call)
        options = call.object.get("deleteOptions") or {}
        if not call.dry_run:
            marked = with_condition(
                pod,
                type="DisruptionTarget",
                status="True",
                reason="EvictionByEvictionAPI",
                message="Eviction API: evicting",
            )
            self._store.put(call.resource, marked)
            self._deleter.delete(
                ApiRequest("delete", call.resource, call.namespace, call.name, body=options)
            )
        return success(201)

    def log(self, call: ApiRequest) -> str:
        annotations = self._found(call)["metadata"].get("annotations") or {}
        return str(annotations.get(LOG_ANNOTATION, ""))

    def _found(self, call: ApiRequest) -> Json:
        found = self._store.get(call.resource, call.namespace, call.name)
        if found is None:
            raise not_found(call.resource, call.name)
        return found


def with_condition(pod: Json, **condition: str) -> Json:
    """A pod with a condition set now."""
    status = pod.get("status") or {}
    others = [one for one in status.get("conditions") or [] if one["type"] != condition["type"]]
    added = {"lastProbeTime": None, "lastTransitionTime": metadata.now(), **condition}
    return {**pod, "status": {**status, "conditions": [*others, added]}}
