"""Pods that no node will end: those of a node that is gone, and those that never had one."""

import time

from tests.cluster.client import Client, Object, tolerate
from tests.cluster.controllers.events import Events
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.job_rules import condition_is, has_ended
from tests.cluster.controllers.queue import Queue
from tests.cluster.controllers.resource import NODES, NOT_FOUND, PODS
from tests.cluster.controllers.writes import Writes

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

NODE_GONE = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByPodGC",
    "message": "PodGC: node no longer exists",
}


class PodGarbageCollector:
    """Marks such pods as failed and deletes them at once."""

    def __init__(
        self, client: Client, informers: Informers, events: Events, quarantine_seconds: float
    ) -> None:
        self._client = client
        self._pods = informers.of(PODS)
        self._nodes = informers.of(NODES)
        self._writes = Writes(client, informers, events, "pod-garbage-collector")
        self._quarantine = quarantine_seconds
        self._missing_since: dict[str, float] = {}
        self.queue: Queue[tuple[str, str]] = Queue(self._sync, workers=4)

    async def run(self) -> None:
        """Work for ever."""
        await self._pods.synced.wait()
        await self._nodes.synced.wait()
        self._pods.subscribe(lambda _, new: self._about(new))
        self._nodes.subscribe(self._about_node)
        await self.queue.run()

    def _about(self, pod: Object | None) -> None:
        if pod and self._is_lost(pod):
            self.queue.add((pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _about_node(self, old: Object | None, new: Object | None) -> None:
        known = new or old
        assert known is not None
        name = known["metadata"]["name"]
        if new is not None:
            self._missing_since.pop(name, None)
        if new is None or _out_of_service(new):
            for pod in self._pods.objects():
                if pod["spec"].get("nodeName") == name:
                    self._about(pod)

    def _is_lost(self, pod: Object) -> bool:
        name = pod["spec"].get("nodeName")
        deleted = "deletionTimestamp" in pod["metadata"]
        if not name:
            return deleted
        node = self._nodes.get("", name)
        return node is None or (deleted and _out_of_service(node))

    async def _sync(self, key: tuple[str, str]) -> float | None:
        pod = self._pods.get(*key)
        if pod is None or not self._is_lost(pod):
            return None
        name = pod["spec"].get("nodeName", "")
        gone = bool(name) and self._nodes.get("", name) is None
        if gone:
            since = self._missing_since.setdefault(name, time.monotonic())
            left = since + self._quarantine - time.monotonic()
            if left > 0:
                return left
            if await self._exists(name):
                return self._quarantine
        if not has_ended(pod):
            condition = [NODE_GONE] if gone else []
            await self._writes.patch_pod_status(pod, condition, phase="Failed")
        await self._writes.delete_pod(pod, gracePeriodSeconds=0)
        return None

    async def _exists(self, node: str) -> bool:
        with tolerate(NOT_FOUND):
            await self._client.get(NODES.path(name=node))
            return True
        return False


def _out_of_service(node: Object) -> bool:
    taints = node["spec"].get("taints", [])
    tainted = any(taint["key"] == OUT_OF_SERVICE for taint in taints)
    return tainted and not condition_is(node, "Ready", "True")
