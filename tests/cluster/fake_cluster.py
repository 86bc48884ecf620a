"""A fake cluster for controller tests: a real or double API server with nodes that run nothing.

A fake node sends heartbeats and reports what a kubelet would. Its pods are running and ready once
they are scheduled, and a deleted pod exits with code 143. Tests report every other pod status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.cluster.client import TRANSIENT, Client, Object, connect, tolerate
from tests.cluster.controllers.job_rules import condition_is

JOBS = "apis/batch/v1/namespaces/{}/jobs"
PODS = "api/v1/namespaces/{}/pods"
LEASES = "apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES = "api/v1/nodes"
NAMESPACES = "api/v1/namespaces"

WAIT_SECONDS = 25.0
POLL_SECONDS = 0.05
STOPPED = 143


class FakeCluster:
    """Blocking calls to an API server. Fake nodes run while a call or a wait is in progress."""

    def __init__(self, client: Client, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner
        self._nodes: dict[str, FakeNode] = {}

    def get(self, path: str, **parameters: str) -> Object:
        return self._runner.run(self._client.get(path, **parameters))

    def find(self, path: str) -> Object | None:
        """The object, or None when there is none."""
        with tolerate(404):
            return self.get(path)
        return None

    def create(self, path: str, body: Object) -> Object:
        return self._runner.run(self._client.create(path, body))

    def patch(self, path: str, body: Any, kind: str = "merge-patch+json") -> Object:
        return self._runner.run(self._client.patch(path, body, kind))

    def delete(self, path: str, **options: object) -> None:
        self._runner.run(self._client.delete(path, options))

    def wait(self, look: Callable[[], Any], timeout: float = WAIT_SECONDS) -> Any:
        """Poll `look` until it returns something truthy, and return that; fail after `timeout`."""
        until = self._time() + timeout
        while not (found := look()):
            assert self._time() < until, f"timed out after {timeout} s: {look()!r}"
            self.sleep(POLL_SECONDS)
        return found

    def sleep(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))

    def items(self, path: str, **parameters: str) -> list[Object]:
        """The objects of a collection, sorted by name."""
        return sorted(self.get(path, **parameters)["items"], key=lambda o: o["metadata"]["name"])

    # Nodes

    def add_node(self, name: str, **more: str) -> FakeNode:
        """A node with 4 cores, 8Gi of memory, 50 pods, and `more` extended resources."""
        node = FakeNode(self._client, name, more)
        self._nodes[name] = node
        self._runner.run(node.register())
        self.wait(lambda: not self.get(f"{NODES}/{name}")["spec"].get("taints"))
        return node

    def remove_node(self, node: FakeNode) -> None:
        del self._nodes[node.name]
        self._runner.run(node.stop())
        with tolerate(404):
            self.delete(f"{NODES}/{node.name}")

    def remove_nodes(self) -> None:
        for node in list(self._nodes.values()):
            self.remove_node(node)

    def node_of(self, pod: Object) -> str:
        return str(pod["spec"]["nodeName"])

    def lose(self, node: str) -> None:
        """Stop a node's heartbeats. The status of its pods stays as it is."""
        self._runner.run(self._nodes[node].stop())

    def recover(self, node: str) -> None:
        """Resume its heartbeats."""
        self._runner.run(self._nodes[node].resume())

    # Jobs and their pods

    def job(self, namespace: str, name: str) -> Object:
        return self.get(f"{JOBS.format(namespace)}/{name}")

    def pods(self, namespace: str, job: str) -> list[Object]:
        return self.items(
            PODS.format(namespace), labelSelector=f"batch.kubernetes.io/job-name={job}"
        )

    def end(self, pod: Object, code: int) -> None:
        """Report that the pod's only container has exited."""
        self._runner.run(report_end(self._client, pod, code))

    def events(self, namespace: str, name: str) -> set[str]:
        """The reasons of all events about objects of a name."""
        found = self.items(
            f"api/v1/namespaces/{namespace}/events", fieldSelector=f"involvedObject.name={name}"
        )
        return {event["reason"] for event in found}

    @staticmethod
    def _time() -> float:
        return datetime.now(UTC).timestamp()


class FakeNode:
    """A node whose kubelet reports statuses but runs nothing."""

    def __init__(self, client: Client, name: str, resources: dict[str, str]) -> None:
        self.name = name
        self._path = f"{NODES}/{name}"
        self._client = client
        self._resources = resources
        self._tasks: list[asyncio.Task[None]] = []

    async def register(self) -> None:
        capacity = {"cpu": "4", "memory": "8Gi", "pods": "50"} | self._resources
        node = {
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}},
            "status": {"capacity": capacity, "allocatable": capacity},
        }
        await self._client.create(NODES, node)
        await self.resume()

    async def stop(self) -> None:
        """Stop heartbeats and pod handling, as a lost node does."""
        while self._tasks:  # aiohttp can turn a cancellation into its own TimeoutError
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=1)
            self._tasks = [task for task in self._tasks if not task.done()]

    async def resume(self) -> None:
        await self._report_ready()
        self._tasks = [
            asyncio.create_task(self._send_heartbeats()),
            asyncio.create_task(self._run_pods()),
        ]

    async def _report_ready(self) -> None:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
        ready |= {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}
        await self._client.patch(f"{self._path}/status", {"status": {"conditions": [ready]}})

    async def _send_heartbeats(self) -> None:
        while True:
            spec = {"holderIdentity": self.name, "renewTime": _now(".%f")}
            with tolerate(404), suppress(*TRANSIENT):
                await self._renew({"metadata": {"name": self.name}, "spec": spec})
                # On a busy machine, heartbeats may have been too late for a while.
                if not condition_is(await self._client.get(self._path), "Ready", "True"):
                    await self._report_ready()
            await asyncio.sleep(1)

    async def _renew(self, lease: Object) -> None:
        with tolerate(404):
            await self._client.patch(f"{LEASES}/{self.name}", lease, "merge-patch+json")
            return
        with tolerate(409):
            await self._client.create(LEASES, lease)

    async def _run_pods(self) -> None:
        while True:
            with tolerate(404, 409), suppress(*TRANSIENT):
                query = {"fieldSelector": f"spec.nodeName={self.name}"}
                for pod in (await self._client.get("api/v1/pods", **query))["items"]:
                    await self._sync_pod(pod)
            await asyncio.sleep(POLL_SECONDS)

    async def _sync_pod(self, pod: Object) -> None:
        meta, phase = pod["metadata"], pod["status"].get("phase", "Pending")
        if "deletionTimestamp" in meta:
            if phase in ("Pending", "Running"):
                await report_end(self._client, pod, STOPPED)
            if meta.get("deletionGracePeriodSeconds") or "finalizers" not in meta:
                options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
                await self._client.delete(_pod_path(pod), options)
        elif phase == "Pending":
            running = {"running": {"startedAt": _now()}}
            await _report(self._client, pod, "Running", "True", running)


async def report_end(client: Client, pod: Object, code: int) -> None:
    """Report that the pod's container exited."""
    terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
    terminated |= {"startedAt": _now(), "finishedAt": _now()}
    phase = "Failed" if code else "Succeeded"
    await _report(client, pod, phase, "False", {"terminated": terminated})


async def _report(client: Client, pod: Object, phase: str, ready: str, state: Object) -> None:
    container = pod["spec"]["containers"][0]
    started = {"name": container["name"], "image": container["image"], "imageID": ""}
    status = {
        "phase": phase,
        "startTime": pod["status"].get("startTime", _now()),
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": _now()}],
        "containerStatuses": [
            {**started, "ready": ready == "True", "restartCount": 0, "state": state}
        ],
    }
    with tolerate(404):
        await client.patch(f"{_pod_path(pod)}/status", {"status": status})


@contextmanager
def fake_cluster(kubeconfig: Path) -> Iterator[FakeCluster]:
    """Calls to the API server that a kubeconfig names."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        client = runner.run(stack.enter_async_context(connect(kubeconfig, "fake-kubelet")))
        cluster = FakeCluster(client, runner)
        try:
            yield cluster
        finally:
            cluster.remove_nodes()
            runner.run(stack.aclose())


def _pod_path(pod: Object) -> str:
    return f"{PODS.format(pod['metadata']['namespace'])}/{pod['metadata']['name']}"


def _now(fraction: str = "") -> str:
    return datetime.now(UTC).strftime(f"%Y-%m-%dT%H:%M:%S{fraction}Z")
