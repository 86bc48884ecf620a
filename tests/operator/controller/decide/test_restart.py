"""When the next attempt starts, and where."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dreambooth_api.contract.stages import Outcome
from dreambooth_api.contract.times import rfc3339
from dreambooth_api.models.status import AttemptStatus, Counters, Status
from tests.operator.controller.world import START, World, dreambooth_job, running
from tests.operator.restarts import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, WAITS


def test_a_failed_rank_is_recorded_and_the_wait_doubles_with_each_failure() -> None:
    world = running()
    for number, wait in enumerate([10, 20, 40]):
        world.fail()
        assert world.status.phase == "Restarting"
        record = world.record
        assert (record.number, record.outcome, record.rank, record.node, record.exit_code) == (
            number,
            "Failed",
            1,
            "node-1",
            1,
        )
        assert record.reason == "ValueError: x"
        assert world.decide().requeue_seconds == wait
        world.tick(wait)
        world.settle()
        world.run_attempt()
        assert world.status.phase == "Running"
    assert world.status.counters == Counters(failures=3)


def test_the_wait_doubles_while_disruptions_leave_no_newer_checkpoint() -> None:
    world = running()
    for saved, wait in [(None, 10), (None, 20), (100, 10), (100, 20), (100, 40), (150, 10)]:
        if saved:
            world.reports_save_of(saved)
            world.settle()
        world.exit(world.pods_of(world.attempt)[0], 143)  # nobody has asked it to
        world.control_jobs()
        world.finish_stopping()
        record = world.record
        assert (record.outcome, record.checkpoint_step) == ("Disrupted", saved)
        assert world.decide().requeue_seconds == wait
        world.tick(wait)
        world.settle()
        world.run_attempt()
    assert world.status.counters == Counters(disruptions=6)


def test_the_restart_budget_is_limited() -> None:
    world = running(restart={"maxFailures": 1})
    world.fail()
    world.tick(10)
    world.settle()
    world.run_attempt()
    world.fail()
    assert world.status.phase == "Failed"
    assert "1 of 1" in world.condition("Failed")[2]
    assert world.condition("Failed")[1] == "Failed"
    assert world.status.counters == Counters(failures=2)


def test_a_node_on_which_two_attempts_failed_is_avoided() -> None:
    world = running()
    for _ in range(2):
        world.fail()
        world.tick(60)
        world.settle()
        world.run_attempt()
    (*_, job) = world.applied
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}
    ]


def test_pods_whose_job_was_deleted_in_the_background_end_before_the_next_attempt() -> None:
    world = running()
    world.delete_job("mug-0", background=True)
    world.settle()
    assert world.record.outcome == "Disrupted"
    world.tick(60)
    world.settle()
    assert not world.live
    assert world.condition("PodsReady")[1] == "PodsLeft"
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert [job.name for job in world.live] == ["mug-1"]


@pytest.mark.parametrize(("outcomes", "seconds"), WAITS)
def test_the_wait_is_that_of_a_local_run(outcomes: list[Outcome], seconds: int) -> None:
    restart = {"backoffSeconds": BACKOFF_SECONDS, "maxBackoffSeconds": MAX_BACKOFF_SECONDS}
    world = World(dreambooth_job(restart=restart))
    records = [
        AttemptStatus(number=number, started=START, running=START, ended=START, outcome=outcome)
        for number, outcome in enumerate(outcomes)
    ]
    world.write(Status().model_copy(update={"attempts": records}))
    assert world.decide().requeue_seconds == seconds
    world.tick(seconds - 1)
    assert world.decide().actions == ()
    world.tick(1)
    assert world.decide().actions != ()


def test_a_pod_that_nobody_stops_holds_up_the_next_attempt_for_a_bounded_time() -> None:
    world = running(nodes=1)
    (orphan,) = world.pods_of(world.attempt)
    # As by `kubectl delete job --cascade=orphan`.
    world.pods = {orphan.uid: replace(orphan, job_uid=None)}
    del world.jobs["mug-0"]
    world.settle()
    assert world.status.phase == "Restarting"
    status, reason, message = world.condition("PodsReady")
    assert (status, reason) == ("False", "PodsLeft")
    limit = world.job.spec.runtime.terminating_timeout_seconds
    until = rfc3339(world.now + timedelta(seconds=limit))
    assert f"pod {orphan.name}" in message
    assert message.endswith(f"starts without it at {until}")
    assert world.event_reasons.count("PodsLeft") == 1
    world.tick(limit - 1)
    world.settle()
    assert not world.live
    assert world.decide().requeue_seconds == 1
    world.tick(1)
    world.settle()
    assert world.attempt.name == "mug-1"
    world.run_attempt()
    assert world.status.phase == "Running"
