"""The end of a job, and its time to live."""

from __future__ import annotations

from dreambooth_api.contract.message import BestCheckpoint, Checkpoint, HubPush
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.status import BestStatus
from dreambooth_operator.controller.decide.state.decision import DeleteDreamBoothJob
from tests.operator.controller.world import running


def test_success_reports_where_the_model_is() -> None:
    world = running()
    world.reports(790)
    world.settle()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.status.stage is None
    assert world.status.artifacts is not None
    assert world.status.artifacts.export == "s3://results/runs/team-a/mug/uid-of-the-job/export"
    assert (
        world.status.artifacts.report == "s3://results/runs/team-a/mug/uid-of-the-job/report.html"
    )
    assert world.status.progress is not None
    assert world.status.progress.step == 800
    assert world.condition("Complete")[0] == "True"
    assert world.status.completion_time == world.now


def test_a_job_that_stops_early_succeeds_with_the_reason_and_the_best_checkpoint() -> None:
    world = running()
    world.reports(390, best={"step": 200, "score": 0.25})
    world.settle()
    assert world.status.best == BestStatus(step=200, score="0.25")
    for pod in world.pods_of(world.attempt):
        checkpoint = Checkpoint(step=400, uri="s3://results/400", time=world.now)
        best = BestCheckpoint(step=300, score=0.28125)
        early = "stopped early at step 400 of 800"
        end = Termination(message="done", checkpoint=checkpoint, best=best, stopped_early=early)
        world.exit(pod, 0, end)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.condition("Complete") == (
        "True",
        "StoppedEarly",
        "the model was trained and exported; stopped early at step 400 of 800",
    )
    assert world.status.best == BestStatus(step=300, score="0.2812")
    assert world.status.progress is not None
    assert world.status.progress.step == 400


def test_a_job_is_deleted_when_its_time_to_live_is_over() -> None:
    world = running(ttlSecondsAfterFinished=60)
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.decide().requeue_seconds == 60
    world.tick(60)
    assert world.decide().actions == (DeleteDreamBoothJob(),)


def test_a_push_to_the_hub_that_failed_is_a_condition_and_an_event() -> None:
    world = running()
    for pod in world.pods_of(world.attempt):
        push = HubPush(repository="me/dog", problem="the token may not write to the repository")
        world.exit(pod, 0, Termination(message="done", push=push))
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    message = "me/dog: the token may not write to the repository"
    assert world.condition("PushedToHub") == ("False", "PushFailed", message)


def test_a_push_to_the_hub_is_a_condition() -> None:
    world = running()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0, Termination(message="done", push=HubPush(repository="me/dog")))
    world.control_jobs()
    world.settle()
    message = "the export is on the hub as me/dog"
    assert world.condition("PushedToHub") == ("True", "Pushed", message)
