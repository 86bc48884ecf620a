"""Objects that have the name of a child and are somebody else's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.bad_days.day import Day
from tests.cluster.client import Object
from tests.cluster.pretend import JOBS

RETRY_SECONDS = 60
"""How long after it found a name taken the operator looks again."""
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
def test_a_name_that_is_taken_is_told_and_waited_for(day: Day, which: str, labelled: bool) -> None:
    theirs = FOREIGN[which]
    meta = theirs["metadata"] | ({"labels": LABELS} if labelled else {})
    path = path_of(day, theirs)
    before = day.cluster.create(path.rpartition("/")[0], theirs | {"metadata": meta})
    day.create()
    if which in ("attempt", "service"):  # the preflight needs neither
        day.pass_preflight()
    told = day.wait(lambda: taken(day))
    assert f"{theirs['kind']} {meta['name']} exists and is not this job's" in told["message"]
    assert "delete it" in told["message"]
    assert day.settles()
    assert day.events().count("NameTaken") == 1
    after = day.cluster.get(path)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"].get("ownerReferences") is None
    assert managers(after) & {"dreambooth-operator"} == set()
    assert content(after) == content(before)
    assert day.training().attempts == ()


def test_it_goes_on_when_the_other_is_gone(day: Day) -> None:
    theirs = FOREIGN["config"]
    path = path_of(day, theirs)
    day.cluster.create(path.rpartition("/")[0], theirs)
    day.create()
    day.wait(lambda: taken(day))
    day.cluster.delete(path)
    day.wait(lambda: day.cluster.find(path), timeout=RETRY_SECONDS + 20)
    day.trained()
    assert day.condition("Accepted")["status"] == "True"


def test_a_name_that_is_taken_during_training_does_not_touch_it(day: Day) -> None:
    before = day.train()
    with day.frozen():
        path = day.path("services", "mug-ranks")
        day.cluster.delete(path)
        theirs = day.cluster.create(path.rpartition("/")[0], FOREIGN["service"])
    day.wait(lambda: taken(day))
    assert day.training() == before
    assert day.status()["phase"] == "Running"
    day.ranks["mug"].progress["step"] = 8
    day.wait(day.reports)
    assert content(day.cluster.get(path)) == content(theirs)
    assert day.training() == before


def taken(day: Day) -> Object | None:
    found = day.condition("Accepted")
    return found if found.get("reason") == "NameTaken" and found["status"] == "False" else None


def path_of(day: Day, theirs: Object) -> str:
    name = theirs["metadata"]["name"]
    if theirs["kind"] == "Job":
        return f"{JOBS.format(day.namespace)}/{name}"
    return day.path(f"{theirs['kind'].lower()}s", name)


def managers(found: Object) -> set[str]:
    return {each["manager"] for each in found["metadata"].get("managedFields", [])}


def content(found: Object) -> Object:
    return {name: found[name] for name in ("spec", "data") if name in found}
