"""Pods that the API server refuses: the reason is shown, and the preflight's Job is kept."""

from __future__ import annotations

import pytest

from tests.operator.controller.world import World, dreambooth_job, running

REFUSAL = (
    'pods "mug-preflight-x7k2p" is forbidden: exceeded quota: team, requested: pods=1,'
    " used: pods=3, limited: pods=3"
)


def refused(**runtime: object) -> World:
    """A job whose preflight gets no pod."""
    world = World(dreambooth_job(**runtime))
    world.settle()
    world.refusal = REFUSAL
    world.control_jobs()
    world.settle()
    return world


def test_a_preflight_without_pod_shows_the_servers_own_words() -> None:
    world = refused()
    assert world.status.phase == "Preflight"
    status, reason, message = world.condition("PreflightPassed")
    assert (status, reason) == ("Unknown", "FailedCreate")
    assert REFUSAL in message
    assert world.event_reasons.count("FailedCreate") == 1


def test_a_refusal_is_looked_for_within_ten_seconds_and_seldom_later() -> None:
    world = World()
    world.settle()
    decision = world.decide()
    assert decision.requeue_seconds is not None
    assert decision.requeue_seconds <= 5
    world.tick(3600)
    decision = world.decide()
    assert decision.requeue_seconds == 30


def test_a_refused_preflight_goes_on_when_the_quota_is_raised() -> None:
    world = refused()
    world.tick(10_000)
    world.settle()
    assert world.status.phase == "Preflight", "without a start deadline it waits"
    world.refusal = ""
    world.pass_preflight()
    assert world.status.phase == "Starting"


def test_a_refused_preflight_that_fails_is_kept_with_the_reason() -> None:
    world = refused(startDeadlineSeconds=100)
    world.tick(100)
    world.settle()
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Failed"
    assert world.condition("Failed")[1] == "NotStarted"
    assert REFUSAL in world.condition("Failed")[2]
    assert world.jobs["mug-preflight"].failed


@pytest.mark.parametrize("crash_after", [1, None])
def test_the_reason_outlives_an_operator_that_dies_while_it_stops_the_preflight(
    crash_after: int | None,
) -> None:
    world = refused(startDeadlineSeconds=100)
    world.tick(100)
    world.reconcile(crash_after=crash_after)
    world.restart_operator()
    world.control_jobs()  # the Job has failed before the operator is back
    world.refusal = ""
    world.settle()
    assert REFUSAL in world.condition("Failed")[2]


def test_an_attempt_that_lacks_a_pod_shows_the_servers_own_words() -> None:
    world = World()
    world.pass_preflight()
    world.refusal = 'pods "mug-0-0-abcde" is forbidden: no PriorityClass with name high was found'
    world.settle()
    assert world.status.phase == "Starting"
    status, reason, message = world.condition("PodsReady")
    assert (status, reason) == ("False", "FailedCreate")
    assert world.refusal in message
    world.refusal = ""
    world.run_attempt()
    assert world.status.phase == "Running"


def test_an_attempt_with_all_its_pods_reads_no_events() -> None:
    world = running()
    world.refusal = REFUSAL
    world.settle()
    assert world.condition("PodsReady")[1] == "AllJoined"
    assert world.decide().requeue_seconds is None
