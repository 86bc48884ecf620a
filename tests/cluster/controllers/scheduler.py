"""The scheduler: assigns a node to pending pods, or reports why none fits."""

import asyncio
import logging

from tests.cluster.client import TRANSIENT, ApiError, Client, Object, tolerate
from tests.cluster.controllers.events import Events
from tests.cluster.controllers.fit import Place, choose
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.job_rules import has_ended
from tests.cluster.controllers.queue import BATCH_SECONDS
from tests.cluster.controllers.resource import CONFLICT, FORBIDDEN, NODES, NOT_FOUND, PODS
from tests.cluster.controllers.writes import Writes

log = logging.getLogger(__name__)

COMPONENT = "default-scheduler"

REFUSED = (NOT_FOUND, CONFLICT, FORBIDDEN)
"""A pod cannot be bound that is gone, placed or changed by another, or whose namespace goes."""

AGAIN_SECONDS = 0.5
"""What failed is looked at again after this long."""


class Scheduler:
    """Places all waiting pods in one pass, whenever something changed that may make room."""

    def __init__(self, client: Client, informers: Informers, events: Events) -> None:
        self._client = client
        self._pods = informers.of(PODS)
        self._nodes = informers.of(NODES)
        self._writes = Writes(client, informers, events, COMPONENT)
        self._changed = asyncio.Event()
        self._bound: dict[str, str] = {}
        """Nodes of pods (by uid) whose binding has been written, but not seen yet."""

    async def run(self) -> None:
        """Work for ever."""
        await self._pods.synced.wait()
        await self._nodes.synced.wait()
        self._pods.subscribe(self._about_pod)
        self._nodes.subscribe(lambda old, new: self._changed.set())
        while True:
            await self._changed.wait()
            await asyncio.sleep(BATCH_SECONDS)
            self._changed.clear()
            try:
                await self._place_all()
            except (ApiError, *TRANSIENT) as error:
                log.warning("scheduling: %s", error or type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)
                self._changed.set()

    def _about_pod(self, old: Object | None, new: Object | None) -> None:
        known = new or old
        assert known is not None
        if new is None or new["spec"].get("nodeName"):
            self._bound.pop(known["metadata"]["uid"], None)
        left = new is None or (has_ended(new) and not (old and has_ended(old)))
        if left or self._waits(known):
            self._changed.set()

    def _waits(self, pod: Object) -> bool:
        spec, meta = pod["spec"], pod["metadata"]
        placed = spec.get("nodeName") or self._bound.get(meta["uid"])
        ours = spec.get("schedulerName", COMPONENT) == COMPONENT and not spec.get("schedulingGates")
        return not placed and ours and "deletionTimestamp" not in meta and not has_ended(pod)

    async def _place_all(self) -> None:
        places = {node["metadata"]["name"]: Place(node) for node in self._nodes.objects()}
        waiting = []
        for pod in self._pods.objects():
            name = pod["spec"].get("nodeName") or self._bound.get(pod["metadata"]["uid"])
            if name in places and not has_ended(pod):
                places[name].take(pod)
            elif self._waits(pod):
                waiting.append(pod)
        tasks = []
        for pod in sorted(waiting, key=_order):
            place, why_not = choose(pod, places.values())
            if place:
                place.take(pod)
                tasks.append(self._bind(pod, place.name))
            else:
                tasks.append(self._refuse(pod, why_not))
        await asyncio.gather(*tasks)

    async def _bind(self, pod: Object, node: str) -> None:
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {key: meta[key] for key in ("namespace", "name", "uid")},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        with tolerate(*REFUSED):
            await self._client.create(PODS.path_of(pod, "binding"), binding)
            seen = self._pods.get(meta["namespace"], meta["name"])
            if seen and not seen["spec"].get("nodeName"):
                self._bound[meta["uid"]] = node
            place = f"{meta['namespace']}/{meta['name']}"
            self._writes.record_event(pod, "Scheduled", f"Successfully assigned {place} to {node}")
            return
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._changed.set)

    async def _refuse(self, pod: Object, why: str) -> None:
        conditions = pod.get("status", {}).get("conditions", [])
        if any(c["type"] == "PodScheduled" and c.get("message") == why for c in conditions):
            return
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        await self._writes.patch_pod_status(pod, [{**condition, "message": why}])
        self._writes.record_event(pod, "FailedScheduling", why, warning=True)


def _order(pod: Object) -> tuple[int, str, str]:
    """By priority, then by age."""
    meta = pod["metadata"]
    return -pod["spec"].get("priority", 0), meta["creationTimestamp"], meta["name"]
