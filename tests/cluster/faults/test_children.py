"""Children deleted by hand: the operator reacts exactly once."""

from __future__ import annotations

import pytest

from tests.cluster.client import Object
from tests.cluster.faults.harness import Harness, counters

BACKGROUND = {"propagationPolicy": "Background"}


@pytest.mark.parametrize(("plural", "name"), [("services", "ranks"), ("configmaps", "config")])
def test_what_pods_need_is_made_again(harness: Harness, plural: str, name: str) -> None:
    before = harness.train()
    path = harness.path(plural, f"mug-{name}")
    old = harness.cluster.get(path)
    harness.cluster.delete(path)
    new = harness.wait(lambda: harness.cluster.find(path))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert content(new) == content(old)
    assert harness.training() == before
    assert harness.settles()
    assert harness.cluster.get(path)["metadata"]["resourceVersion"] == version(new)


def test_an_attempt_that_is_deleted_is_followed_by_the_next(harness: Harness) -> None:
    harness.train()
    harness.cluster.delete(harness.batch_path("mug-0"), **BACKGROUND)
    harness.wait_attempt("mug", 1)
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(disruptions=1)
    assert "deleted by hand" in harness.status()["attempts"][0]["reason"]
    assert harness.events().count("AttemptDisrupted") == 1
    assert harness.settles()


def test_an_attempt_that_is_deleted_while_the_operator_is_away_is_noticed(harness: Harness) -> None:
    harness.train()
    harness.operator.kill()
    harness.cluster.delete(harness.batch_path("mug-0"), **BACKGROUND)
    harness.wait(lambda: harness.cluster.find(harness.batch_path("mug-0")) is None)
    harness.start()
    harness.wait_attempt("mug", 1)
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(disruptions=1)


def test_a_pod_that_is_deleted_takes_its_attempt_along(harness: Harness) -> None:
    harness.train()
    victim = harness.running_pods("mug-0", 2)[1]["metadata"]["name"]
    harness.cluster.delete(harness.path("pods", victim))
    harness.wait_attempt("mug", 1)
    assert harness.training().attempts == (0, 1)
    assert harness.status()["counters"] == counters(disruptions=1)
    assert victim in harness.status()["attempts"][0]["reason"]
    assert harness.events().count("AttemptDisrupted") == 1
    assert harness.settles()


def test_a_preflight_that_is_deleted_is_started_again(harness: Harness) -> None:
    harness.create()
    (first,) = harness.running_pods("mug-preflight", 1)
    harness.cluster.delete(harness.batch_path("mug-preflight"), **BACKGROUND)
    harness.wait(
        lambda: harness.cluster.find(harness.path("pods", first["metadata"]["name"])) is None
    )
    harness.start_training()
    assert harness.training().attempts == (0,)
    assert harness.events().count("PreflightPassed") == 1


def test_a_preflight_that_is_deleted_when_it_has_passed_is_not_missed(harness: Harness) -> None:
    before = harness.train()
    harness.cluster.delete(harness.batch_path("mug-preflight"), **BACKGROUND)
    harness.wait(lambda: harness.cluster.find(harness.batch_path("mug-preflight")) is None)
    assert harness.settles()
    left = {
        uid: name for uid, name in before.children.items() if not name.startswith("mug-preflight")
    }
    assert harness.training().children == left


def content(found: Object) -> Object:
    """An object without what is another one's when it is made anew."""
    meta = {name: found["metadata"][name] for name in ("labels", "ownerReferences")}
    return {name: value for name, value in found.items() if name != "metadata"} | meta


def version(found: Object) -> str:
    return str(found["metadata"]["resourceVersion"])
