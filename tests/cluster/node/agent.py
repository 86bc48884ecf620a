"""The node agent: a Worker for every pod that is bound to the node."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from tests.cluster.client import TRANSIENT, ApiError, Client, Object, connect
from tests.cluster.node.registration import Registration
from tests.cluster.node.settings import NodeSettings
from tests.cluster.node.worker import Worker

log = logging.getLogger(__name__)

PODS = "api/v1/pods"
RETRY_SECONDS = 0.5


async def run_node(kubeconfig: Path, settings: NodeSettings, stop: asyncio.Event) -> None:
    """Play a node until `stop`; then kill its pods and take the Node away.

    What an agent that was killed has left of its pods' files is removed first.
    """
    shutil.rmtree(settings.folder / "pods", ignore_errors=True)
    async with connect(kubeconfig, f"node-agent/{settings.name}") as client:
        registration = Registration(client, settings)
        pods = Pods(client, settings)
        tasks = [asyncio.create_task(registration.keep()), asyncio.create_task(pods.follow())]
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await pods.close()
        await registration.remove()
        for ended in done:
            ended.result()  # raises what has ended the agent, unless it was asked to end


class Pods:
    """Follows the pods of one node; processes go on while the API server is away."""

    def __init__(self, client: Client, settings: NodeSettings) -> None:
        self._client = client
        self._settings = settings
        self._workers: dict[str, Worker] = {}

    async def follow(self) -> None:
        """List and watch for ever."""
        selector = f"spec.nodeName={self._settings.name}"
        while True:
            try:
                found = await self._client.get(PODS, fieldSelector=selector)
                self._see_all(found["items"])
                version = found["metadata"]["resourceVersion"]
                async for event in self._client.watch(
                    PODS, fieldSelector=selector, resourceVersion=version
                ):
                    self._see(event["type"], event["object"])
            except (ApiError, *TRANSIENT) as error:
                log.warning("watching pods: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Kill all pods."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.gone()
        for worker in workers:
            await worker.ended()

    def _see_all(self, pods: list[Object]) -> None:
        for pod in pods:
            self._see("MODIFIED", pod)
        for uid in set(self._workers) - {pod["metadata"]["uid"] for pod in pods}:
            self._workers.pop(uid).gone()

    def _see(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            if uid in self._workers:
                self._workers.pop(uid).gone()
            return
        if uid not in self._workers:
            self._workers[uid] = Worker(self._client, self._settings, pod)
        self._workers[uid].see(pod)
