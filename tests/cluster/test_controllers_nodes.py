"""Scheduling and lost nodes: the same with our controllers as with Kubernetes' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.fake_cluster import NODES, PODS, FakeCluster

Object = dict[str, Any]
Start = Callable[..., str]

GPU = "example.com/gpu"
NOT_HELPFUL = "no new claims to deallocate, preemption: 0/2 nodes are available: "
POD_GC_SECONDS = 90.0
"""Kubernetes' own looks for pods of deleted nodes every 20 seconds, and waits for 40 more."""


@pytest.fixture
def pod(cluster: FakeCluster, namespace: str) -> Start:
    """Creates a pod of a name with fields of its spec; the path of the pod."""

    def create(name: str, requests: dict[str, str] | None = None, **spec: Any) -> str:
        amounts = {"requests": requests, "limits": requests} if requests else {}
        container = {"name": "main", "image": "main", "resources": amounts}
        spec = {"restartPolicy": "Never", "containers": [container], **spec}
        cluster.create(PODS.format(namespace), {"metadata": {"name": name}, "spec": spec})
        return f"{PODS.format(namespace)}/{name}"

    return create


@pytest.fixture
def spare_node(cluster: FakeCluster) -> Iterator[str]:
    """A third node, with two devices, for the pods that tolerate its taint."""
    name = "node-spare"
    node = cluster.add_node(name, **{GPU: "2"})
    taints = [{"key": "spare", "value": "yes", "effect": "NoSchedule"}]
    cluster.patch(f"{NODES}/{name}", {"spec": {"taints": taints}})
    yield name
    cluster.remove_node(node)


SPARE = {"key": "spare", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}


def node_of(cluster: FakeCluster, path: str) -> str:
    """The node that a pod gets."""
    name: str = cluster.wait(lambda: cluster.get(path)["spec"].get("nodeName"))
    return name


def why_not(cluster: FakeCluster, path: str) -> str:
    """The scheduler's message on a pod that fits nowhere."""

    def look() -> Object | None:
        conditions = cluster.get(path)["status"].get("conditions", [])
        return next((c for c in conditions if c["type"] == "PodScheduled"), None)

    condition = cluster.wait(look)
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    message: str = condition["message"]
    return message


def not_on(*nodes: str) -> Object:
    """The affinity that keeps a pod off nodes."""
    terms = {"nodeSelectorTerms": [others(*nodes)]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def rather_not_on(*nodes: str) -> Object:
    """The affinity of a pod that takes another node where there is one."""
    terms = [{"weight": 100, "preference": others(*nodes)}]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def others(*nodes: str) -> Object:
    """The nodes but these; a rule may name only one."""
    rules = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    return {"matchFields": rules}


def test_a_node_selector_is_honoured(cluster: FakeCluster, pod: Start) -> None:
    path = pod("selecting", nodeSelector={"kubernetes.io/hostname": "node-b"})
    assert node_of(cluster, path) == "node-b"


def test_a_pod_is_kept_off_a_node_by_name(cluster: FakeCluster, pod: Start) -> None:
    assert node_of(cluster, pod("elsewhere", affinity=not_on("node-a"))) == "node-b"
    message = why_not(cluster, pod("nowhere", affinity=not_on("node-a", "node-b")))
    assert message == (
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. "
        f"{NOT_HELPFUL}2 Preemption is not helpful for scheduling."
    )


def test_a_node_is_avoided_where_there_is_another(cluster: FakeCluster, pod: Start) -> None:
    assert node_of(cluster, pod("not-on-a", affinity=rather_not_on("node-a"))) == "node-b"
    assert node_of(cluster, pod("not-on-b", affinity=rather_not_on("node-b"))) == "node-a"
    assert node_of(cluster, pod("anywhere", affinity=rather_not_on("node-a", "node-b")))


def test_what_no_node_has_is_named(cluster: FakeCluster, pod: Start) -> None:
    message = why_not(cluster, pod("big", requests={"cpu": "100", "memory": "100Gi", GPU: "1"}))
    assert message == (
        f"0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient {GPU}, "
        f"2 Insufficient memory. {NOT_HELPFUL}2 Preemption is not helpful for scheduling."
    )


def test_a_device_is_given_once(cluster: FakeCluster, pod: Start, spare_node: str) -> None:
    assert node_of(cluster, pod("first", {GPU: "2"}, tolerations=[SPARE])) == spare_node
    second = pod("second", {GPU: "1"}, tolerations=[SPARE])
    assert f"3 Insufficient {GPU}" in why_not(cluster, second)
    cluster.delete(second.replace("second", "first"))
    assert node_of(cluster, second) == spare_node


def test_a_taint_keeps_pods_away(cluster: FakeCluster, pod: Start, spare_node: str) -> None:
    message = why_not(cluster, pod("intolerant", {GPU: "1"}))
    assert "1 node(s) had untolerated taint(s), 2 Insufficient" in message
    assert node_of(cluster, pod("tolerant", {GPU: "1"}, tolerations=[SPARE])) == spare_node


def test_a_cordoned_node_gets_no_pods(cluster: FakeCluster, pod: Start) -> None:
    cordon(cluster, True)
    try:
        path = pod("waiting", nodeSelector={"kubernetes.io/hostname": "node-a"})
        assert "1 node(s) were unschedulable" in why_not(cluster, path)
    finally:
        cordon(cluster, False)
    assert node_of(cluster, path) == "node-a"


def cordon(cluster: FakeCluster, true: bool) -> None:
    cluster.patch(f"{NODES}/node-a", {"spec": {"unschedulable": true or None}})
    cluster.wait(lambda: bool(cluster.get(f"{NODES}/node-a")["spec"].get("taints")) == true)


def test_a_node_whose_heartbeats_were_late_gets_pods_again(
    cluster: FakeCluster, pod: Start
) -> None:
    late = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    cluster.patch(f"{NODES}/node-a/status", {"status": {"conditions": [late]}})
    cluster.wait(lambda: condition(cluster.get(f"{NODES}/node-a"), "Ready")["status"] == "True")
    path = pod("waiting", nodeSelector={"kubernetes.io/hostname": "node-a"})
    assert node_of(cluster, path) == "node-a"


def test_pods_of_a_lost_node_are_deleted_and_stay(
    cluster: FakeCluster, pod: Start, spare_node: str
) -> None:
    unreachable = {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}
    leaves = [{**unreachable, "effect": "NoExecute", "tolerationSeconds": 1}, SPARE]
    stays = [{**unreachable, "effect": "NoExecute"}, SPARE]
    where = {"nodeSelector": {"kubernetes.io/hostname": spare_node}}
    leaving = pod("leaving", tolerations=leaves, **where)
    staying = pod("staying", tolerations=stays, **where)
    for path in (leaving, staying):
        cluster.wait(lambda path=path: cluster.get(path)["status"].get("phase") == "Running")
    cluster.lose(spare_node)
    cluster.wait(lambda: "deletionTimestamp" in cluster.get(leaving)["metadata"], timeout=30)
    lost = cluster.get(leaving)
    assert lost["status"]["phase"] == "Running"
    assert condition(lost, "Ready")["status"] == "False"
    disruption = condition(lost, "DisruptionTarget")
    reported = [disruption[key] for key in ("status", "reason", "message")]
    sentence = "Taint manager: deleting due to NoExecute taint"
    assert reported == ["True", "DeletionByTaintManager", sentence]
    node = cluster.get(f"{NODES}/{spare_node}")
    ready = condition(node, "Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
    assert taints(node) == {
        ("spare", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    }
    assert "deletionTimestamp" not in cluster.get(staying)["metadata"]

    cluster.recover(spare_node)
    cluster.wait(lambda: cluster.find(leaving) is None)
    alone = {("spare", "NoSchedule")}
    cluster.wait(lambda: taints(cluster.get(f"{NODES}/{spare_node}")) == alone)
    assert "deletionTimestamp" not in cluster.get(staying)["metadata"]


def test_pods_of_a_deleted_node_are_given_up(
    cluster: FakeCluster, pod: Start, spare_node: str
) -> None:
    path = pod("left", {GPU: "1"}, tolerations=[SPARE])
    cluster.patch(path, {"metadata": {"finalizers": ["example.com/look"]}})
    cluster.wait(lambda: cluster.get(path)["status"].get("phase") == "Running")
    cluster.lose(spare_node)
    cluster.delete(f"{NODES}/{spare_node}")
    cluster.wait(lambda: cluster.get(path)["status"]["phase"] == "Failed", POD_GC_SECONDS)
    disruption = condition(cluster.get(path), "DisruptionTarget")
    reported = [disruption[key] for key in ("status", "reason", "message")]
    assert reported == ["True", "DeletionByPodGC", "PodGC: node no longer exists"]
    cluster.wait(lambda: "deletionTimestamp" in cluster.get(path)["metadata"])
    cluster.patch(path, {"metadata": {"finalizers": None}})
    cluster.wait(lambda: cluster.find(path) is None)


def condition(object_: Object, kind: str) -> Object:
    found: Object = next(c for c in object_["status"]["conditions"] if c["type"] == kind)
    return found


def taints(node: Object) -> set[tuple[str, str]]:
    return {(taint["key"], taint["effect"]) for taint in node["spec"].get("taints", [])}
