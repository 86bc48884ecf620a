"""Children that somebody deletes by hand: what should happen happens once."""

from __future__ import annotations

import pytest

from tests.cluster.bad_days.day import Day, counters
from tests.cluster.client import Object

BACKGROUND = {"propagationPolicy": "Background"}


@pytest.mark.parametrize(("plural", "name"), [("services", "ranks"), ("configmaps", "config")])
def test_what_pods_need_is_made_again(day: Day, plural: str, name: str) -> None:
    before = day.train()
    path = day.path(plural, f"mug-{name}")
    old = day.cluster.get(path)
    day.cluster.delete(path)
    new = day.wait(lambda: day.cluster.find(path))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert content(new) == content(old)
    assert day.training() == before
    assert day.settles()
    assert day.cluster.get(path)["metadata"]["resourceVersion"] == version(new)


def test_an_attempt_that_is_deleted_is_followed_by_the_next(day: Day) -> None:
    day.train()
    day.cluster.delete(day.batch_path("mug-0"), **BACKGROUND)
    day.wait_attempt("mug", 1)
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(disruptions=1)
    assert "deleted by hand" in day.status()["attempts"][0]["reason"]
    assert day.events().count("AttemptDisrupted") == 1
    assert day.settles()


def test_an_attempt_that_is_deleted_while_the_operator_is_away_is_noticed(day: Day) -> None:
    day.train()
    day.operator.kill()
    day.cluster.delete(day.batch_path("mug-0"), **BACKGROUND)
    day.wait(lambda: day.cluster.find(day.batch_path("mug-0")) is None)
    day.start()
    day.wait_attempt("mug", 1)
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(disruptions=1)


def test_a_pod_that_is_deleted_takes_its_attempt_along(day: Day) -> None:
    day.train()
    victim = day.running_pods("mug-0", 2)[1]["metadata"]["name"]
    day.cluster.delete(day.path("pods", victim))
    day.wait_attempt("mug", 1)
    assert day.training().attempts == (0, 1)
    assert day.status()["counters"] == counters(disruptions=1)
    assert victim in day.status()["attempts"][0]["reason"]
    assert day.events().count("AttemptDisrupted") == 1
    assert day.settles()


def test_a_preflight_that_is_deleted_is_started_again(day: Day) -> None:
    day.create()
    (first,) = day.running_pods("mug-preflight", 1)
    day.cluster.delete(day.batch_path("mug-preflight"), **BACKGROUND)
    day.wait(lambda: day.cluster.find(day.path("pods", first["metadata"]["name"])) is None)
    day.trained()
    assert day.training().attempts == (0,)
    assert day.events().count("PreflightPassed") == 1


def test_a_preflight_that_is_deleted_when_it_has_passed_is_not_missed(day: Day) -> None:
    before = day.train()
    day.cluster.delete(day.batch_path("mug-preflight"), **BACKGROUND)
    day.wait(lambda: day.cluster.find(day.batch_path("mug-preflight")) is None)
    assert day.settles()
    left = {
        uid: name for uid, name in before.children.items() if not name.startswith("mug-preflight")
    }
    assert day.training().children == left


def content(found: Object) -> Object:
    """An object without what is another one's when it is made anew."""
    meta = {name: found["metadata"][name] for name in ("labels", "ownerReferences")}
    return {name: value for name, value in found.items() if name != "metadata"} | meta


def version(found: Object) -> str:
    return str(found["metadata"]["resourceVersion"])
