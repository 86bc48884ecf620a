"""The node life cycle: a node that is silent is tainted, and its pods are to go elsewhere."""

import time
from datetime import UTC, datetime, timedelta

from tests.cluster.client import Client, Object
from tests.cluster.controllers.events import Events, parse, timestamp
from tests.cluster.controllers.fit import CORDONED, tolerates
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.job_rules import condition_is
from tests.cluster.controllers.queue import Queue
from tests.cluster.controllers.resource import LEASES, MERGE_PATCH, NODES, PODS
from tests.cluster.controllers.writes import Writes

LEASE_NAMESPACE = "kube-node-lease"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
MANAGED_TAINTS = {NOT_READY, UNREACHABLE, CORDONED["key"]}

TAINT_OF_READY = {"False": NOT_READY, "Unknown": UNREACHABLE}
"""The taint for each status of the condition Ready; none while it is True."""

REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
"""Conditions that a node reports about itself: Unknown while it is silent."""


class NodeLifecycle:
    """Watches the heartbeats by its own clock: those of the nodes may be wrong."""

    def __init__(
        self, client: Client, informers: Informers, events: Events, grace_seconds: float
    ) -> None:
        self._client = client
        self._nodes = informers.of(NODES)
        self._pods = informers.of(PODS)
        self._leases = informers.of(LEASES)
        self._writes = Writes(client, informers, events, "taint-eviction-controller")
        self._grace = grace_seconds
        self._renewed: dict[str, tuple[str, float]] = {}
        """The last heartbeat of each node, and when it came here (monotonic seconds)."""
        self.queue: Queue[str] = Queue(self._sync, workers=4)

    async def run(self) -> None:
        """Work for ever."""
        for informer in (self._nodes, self._pods, self._leases):
            await informer.synced.wait()
        self._nodes.subscribe(lambda old, new: self._about(new or old))
        self._leases.subscribe(lambda _, new: self._about_lease(new))
        self._pods.subscribe(lambda _, new: self._about_pod(new))
        await self.queue.run()

    def _about(self, node: Object | None) -> None:
        assert node is not None
        self.queue.add(node["metadata"]["name"])

    def _about_lease(self, lease: Object | None) -> None:
        if lease and lease["metadata"].get("namespace") == LEASE_NAMESPACE:
            self.queue.add(lease["metadata"]["name"])

    def _about_pod(self, pod: Object | None) -> None:
        """A pod that was placed on a node just before that was tainted has to go as well."""
        node = pod and self._nodes.get("", pod["spec"].get("nodeName", ""))
        if node and _no_execute(node):
            self._about(node)

    async def _sync(self, name: str) -> float | None:
        node = self._nodes.get("", name)
        if node is None:
            self._renewed.pop(name, None)
            return None
        left = self._last_heartbeat(node) + self._grace - time.monotonic()
        if left <= 0 and _ready(node) != "Unknown":
            node = await self._mark_unknown(node)
        node = await self._taint(node)
        waits = [left] if left > 0 else []
        for pod in self._pods.objects() if _no_execute(node) else []:
            if pod["spec"].get("nodeName") == name and "deletionTimestamp" not in pod["metadata"]:
                waits += await self._evict(node, pod)
        return max(0.05, min(waits)) if waits else None

    def _last_heartbeat(self, node: Object) -> float:
        """When the node last sent a heartbeat, on this process's monotonic clock."""
        name = node["metadata"]["name"]
        lease = self._leases.get(LEASE_NAMESPACE, name)
        renewed = lease["spec"].get("renewTime", "") if lease else ""
        reported = _condition(node, "Ready").get("lastHeartbeatTime", "")
        heartbeat = f"{renewed} {reported}"
        if name not in self._renewed or self._renewed[name][0] != heartbeat:
            self._renewed[name] = (heartbeat, time.monotonic())
        return self._renewed[name][1]

    async def _mark_unknown(self, node: Object) -> Object:
        status = {**node.get("status", {}), "conditions": _unknown(node)}
        node = await self._client.replace(NODES.path_of(node, "status"), {**node, "status": status})
        self._nodes.put(node)
        name = node["metadata"]["name"]
        for pod in self._pods.objects():
            if pod["spec"].get("nodeName") == name and condition_is(pod, "Ready", "True"):
                not_ready = {"type": "Ready", "status": "False"}
                await self._writes.patch_pod_status(pod, [not_ready])
                self._writes.record_event(pod, "NodeNotReady", "Node is not ready", warning=True)
        return node

    async def _taint(self, node: Object) -> Object:
        """Give the node the taints that its condition and its spec ask for."""
        taints = node["spec"].get("taints", [])
        wanted = [(CORDONED["key"], "NoSchedule")] if node["spec"].get("unschedulable") else []
        if key := TAINT_OF_READY.get(_ready(node)):
            wanted += [(key, "NoSchedule"), (key, "NoExecute")]
        have = {(t["key"], t["effect"]) for t in taints if t["key"] in MANAGED_TAINTS}
        if have == set(wanted):
            return node
        now = timestamp()
        kept = [
            taint
            for taint in taints
            if taint["key"] not in MANAGED_TAINTS or (taint["key"], taint["effect"]) in wanted
        ]
        for key, effect in wanted:
            if (key, effect) not in have:
                kept.append({"key": key, "effect": effect, "timeAdded": now})
        version = node["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "spec": {"taints": kept or None}}
        node = await self._client.patch(NODES.path_of(node), patch, MERGE_PATCH)
        self._nodes.put(node)
        return node

    async def _evict(self, node: Object, pod: Object) -> list[float]:
        """Delete a pod once it tolerates its node's taints no longer; the seconds until then."""
        remaining = _tolerated_for(node, pod)
        if remaining is None:
            return []
        if remaining > 0:
            return [remaining]
        place = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self._writes.record_event(pod, "TaintManagerEviction", f"Marking for deletion Pod {place}")
        disruption = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        }
        await self._writes.patch_pod_status(pod, [disruption])
        await self._writes.delete_pod(pod)
        return []


def _condition(object_: Object, kind: str) -> Object:
    conditions = object_.get("status", {}).get("conditions", [])
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def _unknown(node: Object) -> list[Object]:
    """A node's conditions, those that it should report itself Unknown."""
    now = timestamp()
    reported = node.get("status", {}).get("conditions", [])
    conditions = [condition for condition in reported if condition["type"] not in REPORTED]
    for kind in REPORTED:
        known = _condition(node, kind)
        state = {"type": kind, "status": "Unknown", "lastTransitionTime": now}
        if not known:
            state |= {"reason": "NodeStatusNeverUpdated", "lastHeartbeatTime": now}
            state["message"] = "Kubelet never posted node status."
        elif known["status"] == "Unknown":
            state = {}
        else:
            state |= {"reason": "NodeStatusUnknown"}
            state["message"] = "Kubelet stopped posting node status."
        conditions.append({**known, **state})
    return conditions


def _ready(node: Object) -> str:
    """Status of the condition Ready; a node without one is not ready."""
    return str(_condition(node, "Ready").get("status", "False"))


def _no_execute(node: Object) -> list[Object]:
    return [taint for taint in node["spec"].get("taints", []) if taint["effect"] == "NoExecute"]


def _tolerated_for(node: Object, pod: Object) -> float | None:
    """Seconds for which a pod still tolerates all taints of its node; None for ever."""
    now, remaining = datetime.now(UTC), None
    for taint in _no_execute(node):
        covering = [t for t in pod["spec"].get("tolerations", []) if tolerates(t, taint)]
        if not covering:
            return 0
        limits = [
            t["tolerationSeconds"] for t in covering if t.get("tolerationSeconds") is not None
        ]
        if limits:
            since = parse(taint["timeAdded"]) if "timeAdded" in taint else now
            end = since + timedelta(seconds=min(limits))
            left = max(0.0, (end - now).total_seconds())
            remaining = left if remaining is None else min(remaining, left)
    return remaining
