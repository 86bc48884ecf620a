"""What the operator writes over the life of a job, from its creation to its success."""

from __future__ import annotations

from pathlib import Path

from tests.bench.operator.load import manifest
from tests.bench.operator.usage import Writes, writes_of
from tests.cluster.client import Object
from tests.cluster.fake_cluster import FakeCluster, fake_cluster
from tests.e2e.operator_process import Operator

NAMESPACE = "team-0"
JOBS = f"apis/dreambooth.dev/v1alpha1/namespaces/{NAMESPACE}/dreamboothjobs"


def writes_per_life(kubeconfig: Path, operator: Operator, lives: int) -> Writes:
    """Writes over that many lives, on a fake node whose pods end at once and well.

    Rank 0 of such a pod tells no progress: a real one adds a status every 15 s while it trains.
    """
    with fake_cluster(kubeconfig) as cluster:
        cluster.add_node("fake", cpu="100", memory="1000Gi")
        before = writes_of(operator.metrics())
        for index in range(lives):
            _live(cluster, f"life-{index}")
        return writes_of(operator.metrics()) - before


def _live(cluster: FakeCluster, name: str) -> None:
    cluster.create(JOBS, manifest(NAMESPACE, name))
    _end_all(cluster, f"{name}-preflight", 1)
    pods = _running(cluster, f"{name}-0", 2)
    cluster.wait(lambda: _phase(cluster, name) == "Running")
    for pod in pods:
        cluster.end(pod, 0)
    cluster.wait(lambda: _phase(cluster, name) == "Succeeded")
    cluster.delete(f"{JOBS}/{name}")


def _phase(cluster: FakeCluster, name: str) -> str:
    found: Object = cluster.get(f"{JOBS}/{name}")
    return str(found.get("status", {}).get("phase"))


def _running(cluster: FakeCluster, job: str, count: int) -> list[Object]:
    def look() -> list[Object]:
        pods = cluster.pods(NAMESPACE, job)
        up = [pod for pod in pods if pod["status"].get("phase") == "Running"]
        return up if len(up) == count else []

    found: list[Object] = cluster.wait(look)
    return found


def _end_all(cluster: FakeCluster, job: str, count: int) -> None:
    for pod in _running(cluster, job, count):
        cluster.end(pod, 0)
