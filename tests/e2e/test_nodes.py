"""Nodes that are lost, that come back, and that are not to be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.cluster.client import Object
from tests.cluster.kubectl import eventually
from tests.e2e.cluster import Cluster
from tests.e2e.finished import Finished
from tests.e2e.jobs import endless_job, training_job
from tests.e2e.operator_process import Operator

pytestmark = pytest.mark.own_nodes


def test_a_lost_node_is_escaped_and_does_no_harm_when_it_is_back(
    cluster: Cluster, operator: Operator, uninterrupted: Finished
) -> None:
    """Nobody can stop the ranks on a lost node; when they wake up, they are refused."""
    job = training_job(cluster.storage)
    job["spec"]["runtime"]["terminatingTimeoutSeconds"] = 30
    cluster.apply(job)
    old = [cluster.wait_pod("mug", attempt=0, index=index) for index in (0, 1)]
    cluster.wait_saved("mug", 10)
    with paused(cluster, {pod["spec"]["nodeName"] for pod in old}) as lost:
        done = cluster.wait_phase("mug", "Succeeded", timeout=240)
        commits = cluster.storage.commits(cluster.run("mug"))
    counters = done["status"]["counters"]
    assert (counters["failures"], counters["disruptions"]) == (0, 1)
    disrupted, last = done["status"]["attempts"]
    assert (disrupted["outcome"], last["outcome"]) == ("Disrupted", "Succeeded")
    assert disrupted["node"] in lost
    assert "does not stop; its node is considered lost" in disrupted["reason"]

    assert eventually(lambda: not alive(cluster, old), 60)
    assert "a newer claim has taken" in cluster.pod_log(old[0]["metadata"]["name"])
    assert cluster.storage.commits(cluster.run("mug")) == commits
    assert cluster.storage.weights(cluster.run("mug")) == cluster.storage.weights(uninterrupted.run)
    now = cluster.job("mug")
    assert now is not None
    assert now["status"] == done["status"]


def test_a_node_that_failed_a_job_twice_is_avoided(cluster: Cluster, operator: Operator) -> None:
    bad, *others = cluster.nodes
    with cordoned(cluster, others):
        cluster.apply(endless_job(cluster.storage, nodes=1))
        cluster.kill_rank(cluster.wait_pod("mug", attempt=0))
        second = cluster.wait_pod("mug", attempt=1)
    cluster.kill_rank(second)
    third = cluster.wait_pod("mug", attempt=2)
    assert third["spec"]["nodeName"] in others
    assert bad in json.dumps(third["spec"]["affinity"])
    found = cluster.job("mug")
    assert found is not None
    *failed, _ = found["status"]["attempts"]
    assert [(each["outcome"], each["node"]) for each in failed] == [("Failed", bad)] * 2


@contextmanager
def paused(cluster: Cluster, names: set[str]) -> Iterator[set[str]]:
    """Nodes that stand still with all that is on them; afterwards they are ready again."""
    nodes = [cluster.nodes[name] for name in names]
    for node in nodes:
        node.pause()
    try:
        yield names
    finally:
        for node in nodes:
            node.unpause()
        for name in names:
            cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", f"node/{name}")


@contextmanager
def cordoned(cluster: Cluster, names: Sequence[str]) -> Iterator[None]:
    """Nodes that take no more pods."""
    cluster.kubectl("cordon", *names)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *names)


def alive(cluster: Cluster, pods: Sequence[Object]) -> bool:
    """Whether any of the pods is still there."""
    uids = {pod["metadata"]["uid"] for pod in pods}
    return any(pod["metadata"]["uid"] in uids for pod in cluster.pods("mug"))
