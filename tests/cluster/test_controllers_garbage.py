"""What goes when its owner goes: the same with our controllers as with Kubernetes' own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.client import tolerate
from tests.cluster.fake_cluster import JOBS, NAMESPACES, FakeCluster
from tests.cluster.test_controllers_jobs import attempt

Object = dict[str, Any]

CONFIG_MAPS = "api/v1/namespaces/{}/configmaps"
CRDS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HOLD = "example.com/hold"
NEW_KIND_SECONDS = 60.0
"""Kubernetes' own looks for new kinds every 30 seconds."""
UNKNOWN_UID = "00000000-0000-4000-8000-000000000000"


class Maps:
    """ConfigMaps that own each other."""

    def __init__(self, cluster: FakeCluster, namespace: str) -> None:
        self._cluster = cluster
        self._collection = CONFIG_MAPS.format(namespace)

    def create(self, name: str, *owners: Object, held: bool = False) -> Object:
        meta: Object = {"name": name, "ownerReferences": list(owners)}
        if held:
            meta["finalizers"] = [HOLD]
        return self._cluster.create(self._collection, {"metadata": meta})

    def find(self, name: str) -> Object | None:
        return self._cluster.find(f"{self._collection}/{name}")

    def delete(self, name: str, policy: str) -> None:
        self._cluster.delete(f"{self._collection}/{name}", propagationPolicy=policy)

    def release(self, name: str) -> None:
        self._cluster.patch(f"{self._collection}/{name}", {"metadata": {"finalizers": None}})

    def wait_gone(self, *names: str) -> None:
        self._cluster.wait(lambda: all(self.find(name) is None for name in names))


@pytest.fixture
def maps(cluster: FakeCluster, namespace: str) -> Maps:
    return Maps(cluster, namespace)


@pytest.fixture
def widgets(cluster: FakeCluster, namespace: str) -> Iterator[str]:
    """A collection of custom resources of a kind that is new to the cluster."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "names": names,
            "scope": "Namespaced",
            "versions": [version],
        },
    }
    cluster.create(CRDS, crd)
    collection = f"apis/example.com/v1/namespaces/{namespace}/widgets"
    cluster.wait(lambda: is_served(cluster, collection))
    yield collection
    cluster.delete(f"{CRDS}/widgets.example.com")
    cluster.wait(lambda: cluster.find(f"{CRDS}/widgets.example.com") is None)


def is_served(cluster: FakeCluster, collection: str) -> bool:
    """Whether a new kind is served: for a moment its storage is still being made (429)."""
    with tolerate(404, 429):
        return bool(cluster.get(collection))
    return False


def owned_by(owner: Object, kind: str = "ConfigMap", version: str = "v1", **more: Any) -> Object:
    meta = owner["metadata"]
    return {"apiVersion": version, "kind": kind, "name": meta["name"], "uid": meta["uid"], **more}


def test_dependents_follow_their_owner(maps: Maps) -> None:
    owner = maps.create("owner")
    child = maps.create("child", owned_by(owner))
    maps.create("grandchild", owned_by(child))
    maps.delete("owner", "Background")
    maps.wait_gone("owner", "child", "grandchild")


def test_what_never_had_an_owner_goes(maps: Maps) -> None:
    nobody = {"metadata": {"name": "nobody", "uid": UNKNOWN_UID}}
    maps.create("stray", owned_by(nobody))
    maps.wait_gone("stray")


def test_a_namesake_of_the_owner_is_not_the_owner(maps: Maps) -> None:
    owner = maps.create("owner")
    maps.create("child", {**owned_by(owner), "uid": UNKNOWN_UID})
    maps.wait_gone("child")
    assert maps.find("owner")


def test_one_owner_that_is_left_is_enough(cluster: FakeCluster, maps: Maps) -> None:
    first, second = maps.create("first"), maps.create("second")
    maps.create("child", owned_by(first), owned_by(second))
    maps.delete("first", "Background")

    def owners() -> list[str]:
        child = maps.find("child")
        assert child
        return [owner["name"] for owner in child["metadata"]["ownerReferences"]]

    cluster.wait(lambda: owners() == ["second"])


def test_in_the_foreground_an_owner_waits_for_those_that_block(
    cluster: FakeCluster, maps: Maps
) -> None:
    owner = maps.create("owner")
    maps.create("blocks", owned_by(owner, blockOwnerDeletion=True), held=True)
    maps.create("goes-along", owned_by(owner), held=True)
    maps.delete("owner", "Foreground")
    for name in ("blocks", "goes-along"):
        cluster.wait(lambda name=name: "deletionTimestamp" in maps.find(name)["metadata"])
    cluster.sleep(1)
    assert maps.find("owner")
    maps.release("blocks")
    maps.wait_gone("blocks", "owner")
    assert maps.find("goes-along")
    maps.release("goes-along")


def test_orphans_stay(cluster: FakeCluster, maps: Maps) -> None:
    owner = maps.create("owner")
    maps.create("child", owned_by(owner))
    maps.delete("owner", "Orphan")
    maps.wait_gone("owner")
    cluster.sleep(1)
    child = maps.find("child")
    assert child
    assert "ownerReferences" not in child["metadata"]
    assert "deletionTimestamp" not in child["metadata"]


def test_what_a_custom_resource_owns_goes_with_it(
    cluster: FakeCluster, namespace: str, maps: Maps, widgets: str
) -> None:
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "one"}}
    owner = owned_by(cluster.create(widgets, body), "Widget", "example.com/v1", controller=True)
    maps.create("config", owner)
    job = attempt()
    job["metadata"]["ownerReferences"] = [owner]
    path = f"{JOBS.format(namespace)}/{job['metadata']['name']}"
    cluster.create(JOBS.format(namespace), job)
    cluster.wait(lambda: len(cluster.pods(namespace, "dog-0")) == 2)
    cluster.delete(f"{widgets}/one")
    cluster.wait(lambda: maps.find("config") is None, NEW_KIND_SECONDS)
    cluster.wait(lambda: cluster.find(path) is None and not cluster.pods(namespace, "dog-0"))


def test_a_namespace_takes_along_what_is_in_it(cluster: FakeCluster, namespace: str) -> None:
    Maps(cluster, namespace).create("config")
    cluster.create(JOBS.format(namespace), attempt())
    cluster.wait(lambda: len(cluster.pods(namespace, "dog-0")) == 2)
    cluster.delete(f"{NAMESPACES}/{namespace}")
    cluster.wait(lambda: cluster.find(f"{NAMESPACES}/{namespace}") is None)
    assert cluster.items("api/v1/pods", fieldSelector=f"metadata.namespace={namespace}") == []
    cluster.create(NAMESPACES, {"metadata": {"name": namespace}})  # the fixture deletes it again
