"""Objects of other owners that already have a child's name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.client import Object
from tests.cluster.fake_cluster import JOBS
from tests.cluster.faults.harness import Harness, hasty

LABELS = {"dreambooth.dev/job": "mug", "app.kubernetes.io/managed-by": "dreambooth-operator"}


def foreign(kind: str, name: str, **content: Any) -> Object:
    version = "batch/v1" if kind == "Job" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **content}


def sleeper() -> Object:
    container = {"name": "trainer", "image": "someone/else"}
    return {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}


FOREIGN = {
    "preflight": foreign("Job", "mug-preflight", spec=sleeper()),
    "attempt": foreign("Job", "mug-0", spec=sleeper()),
    "service": foreign("Service", "mug-ranks", spec={"ports": [{"port": 1}]}),
    "config": foreign("ConfigMap", "mug-config", data={"job.yaml": "theirs"}),
}


@pytest.mark.parametrize("labelled", [False, True], ids=["plain", "labelled"])
@pytest.mark.parametrize("which", FOREIGN)
def test_a_name_that_is_taken_is_told_and_waited_for(
    harness: Harness, which: str, labelled: bool
) -> None:
    theirs = FOREIGN[which]
    meta = theirs["metadata"] | ({"labels": LABELS} if labelled else {})
    path = path_of(harness, theirs)
    before = harness.cluster.create(path.rpartition("/")[0], theirs | {"metadata": meta})
    harness.create()
    if which in ("attempt", "service"):  # the preflight needs neither
        harness.pass_preflight()
    condition = harness.wait(lambda: taken(harness))
    assert f"{theirs['kind']} {meta['name']} exists and is not this job's" in condition["message"]
    assert "delete it" in condition["message"]
    assert harness.settles()
    assert harness.events().count("NameTaken") == 1
    after = harness.cluster.get(path)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"].get("ownerReferences") is None
    assert managers(after) & {"dreambooth-operator"} == set()
    assert content(after) == content(before)
    assert harness.training().attempts == ()


@pytest.mark.parametrize("program", [hasty("reconciler.worker:REFUSAL_RETRY_SECONDS=3")])
def test_it_goes_on_when_the_other_is_gone(harness: Harness) -> None:
    theirs = FOREIGN["config"]
    path = path_of(harness, theirs)
    harness.cluster.create(path.rpartition("/")[0], theirs)
    harness.create()
    harness.wait(lambda: taken(harness))
    harness.cluster.delete(path)
    harness.wait(lambda: harness.cluster.find(path))
    harness.start_training()
    assert harness.condition("Accepted")["status"] == "True"


def test_a_name_that_is_taken_during_training_does_not_touch_it(harness: Harness) -> None:
    before = harness.train()
    with harness.frozen():
        path = harness.path("services", "mug-ranks")
        harness.cluster.delete(path)
        theirs = harness.cluster.create(path.rpartition("/")[0], FOREIGN["service"])
    harness.wait(lambda: taken(harness))
    assert harness.training() == before
    assert harness.status()["phase"] == "Running"
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(harness.reports)
    assert content(harness.cluster.get(path)) == content(theirs)
    assert harness.training() == before


def taken(harness: Harness) -> Object | None:
    condition = harness.condition("Accepted")
    taken = condition.get("reason") == "NameTaken" and condition["status"] == "False"
    return condition if taken else None


def path_of(harness: Harness, theirs: Object) -> str:
    name = theirs["metadata"]["name"]
    if theirs["kind"] == "Job":
        return f"{JOBS.format(harness.namespace)}/{name}"
    return harness.path(f"{theirs['kind'].lower()}s", name)


def managers(resource: Object) -> set[str]:
    return {each["manager"] for each in resource["metadata"].get("managedFields", [])}


def content(resource: Object) -> Object:
    return {name: resource[name] for name in ("spec", "data") if name in resource}
