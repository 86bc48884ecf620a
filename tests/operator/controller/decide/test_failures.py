"""How an attempt ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.restart import MAX_REFUSALS
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.status import Counters
from dreambooth_operator.controller.decide.failures import classify_failure
from dreambooth_operator.controller.decide.state import history
from dreambooth_operator.controller.decide.state.history import unreliable_nodes
from tests.operator.controller.world import World, running


@pytest.mark.parametrize("code", [64, 65, 66, 67, 68, 69, 71])
def test_an_exit_code_that_is_not_retryable_fails_the_job_at_once(code: int) -> None:
    world = running()
    world.fail(code, "BadData: spec.subjects[0].images: 3 images are broken")
    assert world.status.phase == "Failed"
    assert "spec.subjects[0].images" in world.condition("Failed")[2]
    assert world.record.final


def test_a_stall_has_its_own_counter_and_uses_up_the_budget() -> None:
    world = running(restart={"maxFailures": 0})
    world.fail(70, Termination(rank=3, message="no progress for 900 s"))
    assert world.status.counters == Counters(stalls=1)
    assert world.record.outcome == "Stalled"
    assert world.record.rank == 3
    assert world.status.phase == "Failed"


@pytest.mark.parametrize("code", [-1, 256, 3221225786])
def test_an_exit_code_that_linux_does_not_have_is_a_failure_without_a_code(code: int) -> None:
    world = running()
    world.fail(code)
    assert world.record.outcome == "Failed"
    assert world.record.exit_code is None


def test_after_a_checkpoint_a_gpu_that_is_too_small_is_a_failure_and_its_node_avoided() -> None:
    """A job without a nodeSelector may be restarted on a smaller GPU, or on a shared one."""
    world = running(restart={"maxFailures": 2})
    world.reports_save_of(700)
    world.settle()
    for _ in range(2):
        world.fail(71, "out of GPU memory in a training step")
        assert world.status.phase == "Restarting"
        world.tick(60)
        world.settle()
        world.run_attempt()
    assert world.status.counters == Counters(failures=2)
    assert unreliable_nodes(world.status.attempts) == ["node-1"]
    world.fail(71, "out of GPU memory in a training step")
    assert world.status.phase == "Failed"


@pytest.mark.parametrize("code", [64, 65, 66, 67])
def test_after_a_checkpoint_a_refusal_waits_for_what_is_wrong_outside(code: int) -> None:
    world = running(restart={"maxFailures": 0})
    world.reports_save_of(700)
    world.settle()
    waits = []
    for _ in range(4):
        world.fail(code, "spec.subjects[0].images: s3://data/mug holds no files")
        assert world.status.phase == "Restarting"
        before = world.now
        while not world.live:
            world.tick(10)
            world.settle()
        waits.append((world.now - before).total_seconds())
        world.run_attempt()
    assert waits == [10, 20, 40, 80]
    assert world.status.phase == "Running"
    assert world.status.counters == Counters(disruptions=4)
    assert "holds no files" in world.status.attempts[0].reason
    assert "it is retried" in world.status.attempts[0].reason
    assert not unreliable_nodes(world.status.attempts)


def _refuse(world: World, times: int, step: int | None = None) -> None:
    """End attempts with exit code 67, the last one after it has saved a checkpoint of `step`."""
    for number in range(times):
        if step is not None and number == times - 1:
            saved = Checkpoint(step=step, uri="s3://b/c", time=world.now)
            world.fail(67, Termination(message="no access", checkpoint=saved))
        else:
            world.fail(67, "no access")
        while world.status.phase == "Restarting" and not world.live:
            world.tick(60)
            world.settle()
        if world.live:
            world.run_attempt()


def test_refusals_from_one_checkpoint_are_limited() -> None:
    world = running(restart={"maxFailures": 0})
    world.reports_save_of(700)
    world.settle()
    _refuse(world, MAX_REFUSALS - 1)
    assert world.status.last_checkpoint is not None
    assert world.status.last_checkpoint.refusals == MAX_REFUSALS - 1
    world.restart_operator()
    _refuse(world, 1)
    assert world.status.phase == "Failed"
    _, reason, message = world.condition("Failed")
    assert reason == "Disrupted"
    assert message.startswith("no access\n")
    assert f"{MAX_REFUSALS} attempts have ended like this since the checkpoint of step 700" in (
        message
    )


def test_a_new_checkpoint_lets_refusals_start_anew() -> None:
    world = running()
    world.reports_save_of(700)
    world.settle()
    _refuse(world, MAX_REFUSALS, step=710)
    assert world.status.phase == "Running"
    world.reports_save_of(710)  # as the next attempt reports what it goes on from
    world.settle()
    _refuse(world, MAX_REFUSALS - 2)
    assert world.status.last_checkpoint is not None
    assert world.status.last_checkpoint.refusals == MAX_REFUSALS - 1
    assert world.status.phase == "Running"
    _refuse(world, 1)
    assert world.status.phase == "Failed"


def test_made_up_checkpoints_do_not_let_refusals_start_anew_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_TOTAL_REFUSALS", 5)
    world = running()
    for step in range(1, 6):
        world.reports_save_of(step)
        world.settle()
        assert world.status.phase == "Running"
        _refuse(world, 1)
    assert world.status.phase == "Failed"
    _, _, message = world.condition("Failed")
    assert "5 attempts have ended like this since the first one." in message


def test_after_a_checkpoint_a_refusal_is_recognized_when_no_pod_object_is_left() -> None:
    world = running()
    world.reports_save_of(700)
    world.settle()
    job = world.attempt
    message = "Container trainer for pod default/mug-0-0 failed with exit code 67 matching FailJob"
    result = classify_failure(
        replace(job, failed=True, failure_message=message), [], 1, has_checkpoint=True
    )
    assert (result.outcome, result.final, result.exit_code) == ("Disrupted", False, 67)


def test_a_loss_that_is_not_finite_stays_final() -> None:
    world = running()
    world.reports_save_of(700)
    world.settle()
    world.fail(68)
    assert world.status.phase == "Failed"


def test_an_eviction_is_not_counted_as_a_failure() -> None:
    world = running(restart={"maxFailures": 0})
    pods = world.pods_of(world.attempt)
    world.evict(pods[0])
    world.tick(1)
    world.exit(pods[1], 1, "connection closed by peer")  # first to end, not the cause
    world.finish_stopping()
    assert world.status.counters == Counters(disruptions=1)
    assert world.record.outcome == "Disrupted"
    assert world.record.node == "node-0"
    assert world.status.phase == "Restarting"


def test_a_disruption_is_recognized_when_no_pod_object_is_left() -> None:
    world = running()
    world.evict(world.pods_of(world.attempt)[0])
    world.control_jobs()
    world.stop_pods()
    world.control_jobs()
    world.stop_pods()
    world.control_jobs()
    world.restart_operator()
    world.pods.clear()
    world.settle()
    assert world.record.outcome == "Disrupted"


def test_preemption_by_the_scheduler_is_a_preemption() -> None:
    world = running()
    world.evict(world.pods_of(world.attempt)[0], "PreemptionByScheduler")
    world.finish_stopping()
    assert world.status.counters == Counters(preemptions=1)


def test_a_node_with_a_fast_clock_does_not_hide_a_failure() -> None:
    world = running()
    failed = world.pods_of(world.attempt)[1]
    world.exit(failed, 1, "ValueError: x")
    ahead = replace(world.pods[failed.uid], finished=world.now + timedelta(seconds=90))
    world.pods[failed.uid] = ahead
    world.control_jobs()
    world.tick(1)
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert world.record.outcome == "Failed"
    assert world.record.node == "node-1"


def test_a_pod_that_the_kubelet_failed_is_reported() -> None:
    world = running()
    pod = world.pods_of(world.attempt)[0]
    problem = "Usage of EmptyDir volume exceeds the limit"
    world.pods[pod.uid] = replace(pod, phase="Failed", reason="Evicted", reason_message=problem)
    world.control_jobs()
    world.tick(1)
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert world.record.outcome == "Failed"
    assert world.record.node == "node-0"
    assert world.record.reason.endswith(f"Evicted: {problem}")
