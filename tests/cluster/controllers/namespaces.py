"""Namespaces: deleting one deletes what is in it."""

import asyncio

from tests.cluster.client import Client, Object, tolerate
from tests.cluster.controllers.discovery import discover
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.queue import Queue
from tests.cluster.controllers.resource import NAMESPACES, NOT_FOUND, Resource

AGAIN_SECONDS = 0.3
"""What is left in a namespace that goes is looked for this often."""


class NamespaceController:
    """Deletes all objects of a namespace that is being deleted, then lets it go."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._namespaces = informers.of(NAMESPACES)
        self.queue: Queue[str] = Queue(self._sync, workers=4)

    async def run(self) -> None:
        """Work for ever."""
        self._namespaces.subscribe(lambda _, new: self._about(new))
        await self.queue.run()

    def _about(self, namespace: Object | None) -> None:
        if namespace and "deletionTimestamp" in namespace["metadata"]:
            self.queue.add(namespace["metadata"]["name"])

    async def _sync(self, name: str) -> float | None:
        namespace = self._namespaces.get("", name)
        if not namespace or "deletionTimestamp" not in namespace["metadata"]:
            return None
        resources, _ = await discover(self._client)
        inside = [resource for resource in resources if resource.namespaced]
        left = await asyncio.gather(*(self._empty(resource, name) for resource in inside))
        if any(left):
            return AGAIN_SECONDS
        await self._finalize(namespace)
        return None

    async def _empty(self, resource: Resource, namespace: str) -> int:
        """Delete all objects of a kind; how many there were."""
        items = (await self._client.get(resource.path(namespace)))["items"] or []
        for item in items:
            if "deletionTimestamp" not in item["metadata"]:
                with tolerate(NOT_FOUND):
                    options = {"propagationPolicy": "Background"}
                    await self._client.delete(resource.path_of(item), options)
        return len(items)

    async def _finalize(self, namespace: Object) -> None:
        finalizers = namespace["spec"].get("finalizers", [])
        rest = [finalizer for finalizer in finalizers if finalizer != "kubernetes"]
        body = {**namespace, "spec": {**namespace["spec"], "finalizers": rest}}
        with tolerate(NOT_FOUND):
            await self._client.replace(NAMESPACES.path_of(namespace, "finalize"), body)
