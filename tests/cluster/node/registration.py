"""The Node object and its heartbeat."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from tests.cluster.client import TRANSIENT, ApiError, Client, Object
from tests.cluster.node.settings import NodeSettings
from tests.cluster.node.status import timestamp

log = logging.getLogger(__name__)

PROCESS_NODE_LABEL = "dreambooth.dev/process-node"
MOST_PODS = 110
LEASES = "apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES = "api/v1/nodes"


class Registration:
    """Keeps the Node registered and its Lease renewed."""

    def __init__(self, client: Client, settings: NodeSettings) -> None:
        self._client = client
        self._settings = settings

    async def keep(self) -> None:
        """Register, then renew for ever. What fails is tried again at the next heartbeat."""
        while True:
            try:
                await self._beat()
            except (ApiError, *TRANSIENT) as error:
                log.warning("heartbeat: %s", error)
            await asyncio.sleep(self._settings.heartbeat_seconds)

    async def remove(self) -> None:
        """Take the Node and its Lease away."""
        for path in (NODES, LEASES):
            try:
                await self._client.delete(f"{path}/{self._settings.name}")
            except (ApiError, *TRANSIENT) as error:
                log.warning("removing %s/%s: %s", path, self._settings.name, error)

    async def _beat(self) -> None:
        registered = await self._node()
        if not _is_ready(registered):
            status = {"status": {"conditions": _conditions()}}
            await self._client.patch(f"{NODES}/{self._settings.name}/status", status)
        await self._renew(registered)

    async def _node(self) -> Object:
        try:
            return await self._client.get(f"{NODES}/{self._settings.name}")
        except ApiError as error:
            if error.code != 404:
                raise
        log.info("registering %s", self._settings.name)
        return await self._client.create(NODES, node(self._settings))

    async def _renew(self, registered: Object) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        spec = {
            "holderIdentity": self._settings.name,
            "leaseDurationSeconds": 40,
            "renewTime": now,
        }
        try:
            await self._client.patch(
                f"{LEASES}/{self._settings.name}", {"spec": spec}, "merge-patch+json"
            )
        except ApiError as error:
            if error.code != 404:
                raise
            await self._client.create(LEASES, _lease(registered, spec))


def node(settings: NodeSettings) -> Object:
    """The Node, without the `kubernetes.io/os` label that most DaemonSets select."""
    capacity = {"cpu": settings.cpu, "memory": settings.memory, "pods": str(MOST_PODS)}
    capacity |= {"ephemeral-storage": "100Gi"} | settings.resources
    labels = {"kubernetes.io/hostname": settings.name, PROCESS_NODE_LABEL: "true"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": settings.name, "labels": labels | settings.labels},
        "spec": {"taints": list(settings.taints)},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": _conditions(),
            "addresses": [
                {"type": "InternalIP", "address": settings.address},
                {"type": "Hostname", "address": settings.name},
            ],
        },
    }


def _conditions() -> list[dict[str, Any]]:
    now = timestamp()
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
    }
    return [ready | {"lastHeartbeatTime": now, "lastTransitionTime": now}]


def _is_ready(registered: Object) -> bool:
    conditions = registered.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _lease(registered: Object, spec: Object) -> Object:
    metadata = registered["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "Node",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": metadata["name"], "ownerReferences": [owner]},
        "spec": spec,
    }
