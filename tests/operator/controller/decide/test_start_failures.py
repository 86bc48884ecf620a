"""A job that has trained is not given up because a later attempt cannot start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dreambooth_api.models.status import Condition, Counters
from tests.operator.controller.world import World, dreambooth_job, running


def trained(**runtime: Any) -> World:
    """A job that saved a checkpoint, and whose node was then drained."""
    world = running(startDeadlineSeconds=100, **runtime)
    world.reports_save_of(700)
    world.settle()
    world.evict(world.pods_of(world.attempt)[0])
    world.finish_stopping()
    world.tick(10)
    world.settle()
    world.control_jobs()
    assert world.attempt.name == "mug-1"
    return world


def give_up(world: World) -> None:
    world.settle()
    world.finish_stopping()


def test_no_nodes_for_a_later_attempt_is_a_disruption() -> None:
    world = trained()
    world.tick(100)
    give_up(world)
    assert world.status.phase == "Restarting"
    assert world.status.counters == Counters(disruptions=2)
    assert "startDeadlineSeconds" in world.record.reason
    assert not world.live
    assert all(pod.released for pod in world.pods.values())
    world.tick(10)
    world.settle()
    assert world.run_attempt().name == "mug-2"
    assert world.status.phase == "Running"


def test_attempts_that_cannot_start_are_further_and_further_apart() -> None:
    world = trained()
    waits = []
    for _ in range(8):
        world.tick(100)
        give_up(world)
        before = world.now
        while not world.live:
            world.tick(10)
            world.settle()
        waits.append((world.now - before).total_seconds())
        world.control_jobs()
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]
    assert world.status.counters == Counters(disruptions=9)


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "CreateContainerConfigError", "InvalidImageName"]
)
def test_a_pod_that_cannot_start_is_a_disruption_once_the_job_has_run(reason: str) -> None:
    world = trained()
    for uid, pod in world.pods.items():
        world.pods[uid] = replace(pod, node="node-0", waiting=reason, waiting_since=world.now)
    world.tick(60)
    give_up(world)
    assert world.status.phase == "Restarting"
    assert world.status.counters == Counters(disruptions=2)
    world.tick(10)
    world.settle()
    world.run_attempt()
    assert world.status.phase == "Running"


def test_having_run_is_enough_without_a_checkpoint() -> None:
    world = running(startDeadlineSeconds=100)
    world.tick(5)
    world.fail()
    world.tick(10)
    world.settle()
    world.control_jobs()
    world.tick(100)
    give_up(world)
    assert world.status.phase == "Restarting"
    assert world.status.counters == Counters(failures=1, disruptions=1)


def test_before_a_job_first_ran_the_start_deadline_is_final() -> None:
    world = World(dreambooth_job(startDeadlineSeconds=100))
    world.pass_preflight()
    world.control_jobs()
    world.tick(100)
    give_up(world)
    assert world.status.phase == "Failed"


@pytest.mark.parametrize("reason", ["no: such reason", "ümlaut", "1", "x" * 2000, "a b", "\x1b[2J"])
def test_a_reason_that_no_condition_can_have_leaves_the_status_valid(reason: str) -> None:
    world = World()
    world.pass_preflight()
    world.control_jobs()
    for uid, pod in world.pods.items():
        world.pods[uid] = replace(pod, waiting=reason, waiting_message="why")
    world.settle()
    assert world.condition("PodsReady")[1:] == (
        "Other",
        f"pod {world.pods_of(world.attempt)[0].name}: why",
    )
    for condition in world.status.conditions:
        Condition.model_validate(condition.model_dump())
