"""A thousand jobs at once: by the operator, and by a bare loop that makes the same objects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import yaml

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.decide.preflight import preflight_children
from tests.bench.operator.usage import writes_of
from tests.cluster.client import Client, Object, connect
from tests.e2e.operator_process import Operator

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"
HANDS = 8
"""Requests at the same time, as many as the operator has workers."""
COLLECTIONS = {"ConfigMap": "api/v1", "Job": "apis/batch/v1"}
PLURALS = {"ConfigMap": "configmaps", "Job": "jobs"}
PATIENCE_SECONDS = 600.0


def manifest(namespace: str, name: str) -> Object:
    """A DreamBoothJob: the quickstart under another name."""
    job: Object = yaml.safe_load(QUICKSTART.read_text())
    return job | {"metadata": {"name": name, "namespace": namespace}}


def bare_loop(kubeconfig: Path, jobs: int, namespaces: int, image: str) -> float:
    """DreamBoothJobs per second of a bare loop that applies the ConfigMap and Job of each."""
    return asyncio.run(_bare_loop(kubeconfig, jobs, namespaces, image))


def operator_rate(kubeconfig: Path, jobs: int, namespaces: int) -> float:
    """DreamBoothJobs per second from the first creation until the operator made the last Job."""
    return asyncio.run(_operator_rate(kubeconfig, jobs, namespaces))


def idle_latencies(kubeconfig: Path, jobs: int, namespaces: int) -> list[float]:
    """Seconds from the request for a DreamBoothJob to its Job, one after the other."""
    return asyncio.run(_idle_latencies(kubeconfig, jobs, namespaces))


def settle(operator: Operator, quiet_seconds: float) -> None:
    """Return once the operator has written nothing for that long."""
    writes, since = -1, time.monotonic()
    while time.monotonic() - since < quiet_seconds:
        time.sleep(0.5)
        now = writes_of(operator.metrics()).total()
        if now != writes:
            writes, since = now, time.monotonic()


async def _bare_loop(kubeconfig: Path, jobs: int, namespaces: int, image: str) -> float:
    async with connect(kubeconfig, "bare-loop") as client:

        async def make(namespace: str, name: str) -> None:
            made = await _create(client, namespace, name)
            job = DreamBoothJob.model_validate(made)
            for child in preflight_children(job, image):
                await _apply(client, child)

        started = time.perf_counter()
        await _spread(make, jobs, namespaces, "bare")
        return jobs / (time.perf_counter() - started)


async def _operator_rate(kubeconfig: Path, jobs: int, namespaces: int) -> float:
    async with connect(kubeconfig, "bench") as client:
        arrivals = _Arrivals(client, {f"many-{index}-preflight" for index in range(jobs)})
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            watching = group.create_task(arrivals.watch())
            started = time.perf_counter()

            async def make(namespace: str, name: str) -> None:
                await _create(client, namespace, name)

            await _spread(make, jobs, namespaces, "many")
            await watching
        return jobs / (arrivals.last - started)


async def _idle_latencies(kubeconfig: Path, jobs: int, namespaces: int) -> list[float]:
    found = []
    async with connect(kubeconfig, "bench") as client:
        for index in range(jobs):
            name = f"idle-{index}"
            arrivals = _Arrivals(client, {f"{name}-preflight"})
            watching = asyncio.create_task(arrivals.watch())
            await asyncio.sleep(0.2)  # until it watches
            started = time.perf_counter()
            await _create(client, f"team-{index % namespaces}", name)
            await asyncio.wait_for(watching, 30)
            found.append(arrivals.last - started)
    return found


class _Arrivals:
    """Waits for Jobs by their names."""

    def __init__(self, client: Client, names: set[str]) -> None:
        self._client = client
        self._missing = names
        self.last = 0.0

    async def watch(self) -> None:
        """Return once all were seen."""
        version = (await self._client.get("apis/batch/v1/jobs", limit="1"))["metadata"]
        while self._missing:
            query = {"resourceVersion": version["resourceVersion"]}
            async for event in self._client.watch("apis/batch/v1/jobs", **query):
                meta = event["object"]["metadata"]
                version = meta
                if meta["name"] in self._missing:
                    self._missing.discard(meta["name"])
                    self.last = time.perf_counter()
                if not self._missing:
                    return


async def _spread(
    make: Callable[[str, str], Awaitable[None]], jobs: int, namespaces: int, prefix: str
) -> None:
    """Make that many jobs with some hands at the same time, evenly over the namespaces."""
    left = iter(range(jobs))

    async def hand() -> None:
        for index in left:
            await make(f"team-{index % namespaces}", f"{prefix}-{index}")

    async with asyncio.TaskGroup() as group:
        for _ in range(HANDS):
            group.create_task(hand())


async def _create(client: Client, namespace: str, name: str) -> Object:
    path = f"apis/dreambooth.dev/v1alpha1/namespaces/{namespace}/dreamboothjobs"
    return await client.create(path, manifest(namespace, name))


async def _apply(client: Client, child: Object) -> None:
    meta, kind = child["metadata"], child["kind"]
    path = f"{COLLECTIONS[kind]}/namespaces/{meta['namespace']}/{PLURALS[kind]}/{meta['name']}"
    await client.patch(f"{path}?fieldManager=bare-loop&force=true", child, "apply-patch+yaml")
