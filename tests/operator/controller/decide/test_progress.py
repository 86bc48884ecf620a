"""Progress, saves and checkpoints in the status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.status import CheckpointStatus
from dreambooth_operator.controller.decide.state.observed import Reading
from tests.operator.controller.world import World, running


def saved(world: World, step: int) -> Termination:
    """A pod's termination message after a save; an output's name may have spaces."""
    checkpoint = Checkpoint(step=step, uri=f"s3://my results/{step}", time=world.now)
    return Termination(message="stopped", checkpoint=checkpoint)


def test_progress_is_reported_and_written_at_most_every_fifteen_seconds() -> None:
    world = running()
    world.reports(10, loss=0.123456, etaSeconds=754.0, imagesPerSecond=3.0)
    world.settle()
    progress = world.status.progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.loss, progress.eta) == (
        10,
        800,
        "0.1235",
        "12m",
    )
    assert world.status.stage == "Training"
    world.tick(5)
    world.reports(20)
    assert world.decide().status is None
    world.tick(10)
    world.reports(30)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.step == 30


def test_a_checkpoint_is_reported_without_delay() -> None:
    world = running()
    world.reports(10)
    world.settle()
    world.tick(1)
    world.reports_save_of(12)
    world.settle()
    assert world.status.last_checkpoint is not None
    assert world.status.last_checkpoint.step == 12


def test_a_pod_that_does_not_answer_changes_nothing_but_a_condition() -> None:
    world = running()
    world.reports(10)
    world.settle()
    before = world.status.progress
    world.tick(60)
    world.reading = Reading(world.now, "10.0.0.0", problem="timed out")
    world.settle()
    assert world.status.phase == "Running"
    assert world.status.progress == before
    assert world.condition("ProgressKnown") == ("False", "NoAnswer", "timed out")


def test_an_unreadable_answer_has_a_reason_of_its_own() -> None:
    world = running()
    problem = "the trainer speaks version 7 of the contract"
    world.reading = Reading(world.now, "10.0.0.0", problem=problem, unreadable=True)
    world.settle()
    assert world.condition("ProgressKnown") == ("False", "Unreadable", problem)


def test_a_failing_save_is_reported_once_and_so_is_its_recovery() -> None:
    world = running()
    world.reports_save_of(5)
    world.settle()
    assert world.condition("CheckpointsSaved") == ("True", "Saved", "the last save succeeded")
    for failed in (1, 2):
        world.tick(60)
        world.reports(10, failedSaves=failed, saveProblem="s3://results: no space left")
        world.settle()
    status, reason, message = world.condition("CheckpointsSaved")
    assert (status, reason) == ("False", "SaveFailed")
    assert "2 failed saves" in message
    assert "s3://results: no space left" in message
    (event,) = [event for event in world.events if event.reason == "SaveFailed"]
    assert event.type == "Warning"
    assert "no space left" in event.message
    assert world.status.phase == "Running"
    world.tick(60)
    world.reports_save_of(15, failedSaves=2)
    world.settle()
    assert world.condition("CheckpointsSaved")[:2] == ("True", "Saved")
    assert "2 failed saves" in world.condition("CheckpointsSaved")[2]


def test_saves_that_training_waits_for_are_a_note_of_the_condition() -> None:
    world = running()
    world.reports_save_of(5, saveWarning="spec.checkpoints.every: raise it")
    world.settle()
    message = "the last save succeeded; spec.checkpoints.every: raise it"
    assert world.condition("CheckpointsSaved") == ("True", "Saved", message)


def test_failed_saves_of_an_ended_attempt_are_no_longer_shown() -> None:
    world = running()
    world.reports(10, failedSaves=1, saveProblem="s3://results: no space left")
    world.settle()
    world.fail()
    assert not world.has_condition("CheckpointsSaved")


def test_a_failed_save_of_another_attempt_is_not_reported() -> None:
    world = running()
    world.reports(10, attempt=7, failedSaves=1, saveProblem="no space left")
    world.settle()
    assert not world.has_condition("CheckpointsSaved")


def test_the_progress_of_another_attempt_is_not_reported() -> None:
    world = running()
    world.reports(10, attempt=7)
    world.settle()
    assert world.status.progress is None


def test_the_last_checkpoint_of_a_suspended_attempt_is_reported() -> None:
    world = running()
    world.reports_save_of(3)
    world.settle()
    world.change(suspend=True)
    world.settle()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 143, saved(world, 7))
    world.settle()
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Suspended"
    last = world.status.last_checkpoint
    assert last == CheckpointStatus(step=7, uri="s3://my results/7", time=world.now)


def test_the_last_checkpoint_of_a_successful_attempt_is_reported() -> None:
    world = running()
    world.reports_save_of(3)
    world.settle()
    first, *others = world.pods_of(world.attempt)
    world.exit(first, 0, saved(world, 9))
    for pod in others:
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    last = world.status.last_checkpoint
    assert last == CheckpointStatus(step=9, uri="s3://my results/9", time=world.now)


def test_a_termination_message_is_read_when_job_and_pods_are_gone() -> None:
    world = running()
    world.change(suspend=True)
    world.settle()
    for pod in world.pods_of(world.attempt):
        world.remembered[pod.uid] = replace(
            pod, finished=world.now, termination=saved(world, 7), gone=True
        )
    world.pods.clear()
    del world.jobs["mug-0"]
    world.settle()
    assert world.status.phase == "Suspended"
    assert world.status.last_checkpoint is not None
    assert world.status.last_checkpoint.step == 7


@pytest.mark.parametrize("end", ["succeeded", "failed", "queued", "stopped"])
def test_loss_and_time_left_are_those_of_a_running_job(end: str) -> None:
    world = running()
    world.reports(10, loss=0.5, etaSeconds=754.0)
    world.settle()
    if end == "queued":
        world.queue_suspends(world.attempt)
    elif end == "stopped":
        world.change(suspend=True)
    else:
        for pod in world.pods_of(world.attempt):
            world.exit(pod, 0 if end == "succeeded" else 1)
    world.settle()
    world.finish_stopping()
    world.settle()
    assert world.status.phase != "Running"
    assert world.status.progress is not None
    assert world.status.progress.step >= 10
    assert (world.status.progress.loss, world.status.progress.eta) == (None, None)
