"""Each change of phase: what happens in the cluster, and what `decide` makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.status import AttemptStatus, CheckpointStatus, Counters, Status
from dreambooth_operator.controller.decide.decision import DeleteDreamBoothJob
from dreambooth_operator.controller.decide.observed import Blocked, Reading
from dreambooth_operator.controller.kube.snapshots import COUNTERS_ANNOTATION
from tests.operator.controller.world import POLICY, START, World, dreambooth_job, running


def kinds(world: World) -> list[tuple[str, str]]:
    return [(m["kind"], m["metadata"]["name"]) for m in world.applied]


def test_a_new_job_is_checked_before_a_gpu_is_asked_for() -> None:
    world = World()
    world.settle()
    assert kinds(world) == [("ConfigMap", "mug-config"), ("Job", "mug-preflight")]
    assert world.status.phase == "Preflight"


def test_what_is_not_the_jobs_own_is_told() -> None:
    world = World(defaulted=("spec.storage", "spec.runtime.queue"))
    world.settle()
    status, reason, told = world.condition("Accepted")
    assert (status, reason) == ("True", "Valid")
    assert "spec.storage, spec.runtime.queue: from the operator's defaults" in told


def test_a_passed_preflight_starts_the_first_attempt_and_keeps_its_report() -> None:
    world = World()
    world.pass_preflight("warning: few images\nthe job can be trained")
    assert kinds(world)[2:] == [
        ("Service", "mug-ranks"),
        ("ConfigMap", "mug-config"),
        ("Job", "mug-0"),
    ]
    assert world.status.phase == "Starting"
    assert world.condition("PreflightPassed") == (
        "True",
        "Passed",
        "warning: few images\nthe job can be trained",
    )


def test_a_failed_preflight_fails_the_job_with_its_whole_report() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    report = "error: spec.subjects[0].images: no images\nerror: spec.model.source: no such model"
    world.exit(next(iter(world.pods.values())), 65, report)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Failed"
    assert world.condition("Failed") == ("True", "Refused", report)
    assert not world.live
    assert "PreflightFailed" in world.event_reasons


def test_a_preflight_whose_image_cannot_be_pulled_fails_the_job() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.pull_fails()
    world.settle()
    assert world.status.phase == "Preflight"
    assert world.condition("PreflightPassed")[1] == "ImagePullBackOff"
    world.tick(POLICY.image_pull_grace_seconds)
    world.settle()
    assert world.status.phase == "Failed"
    assert "nothing:1" in world.condition("Failed")[2]
    assert world.jobs["mug-preflight"].deleting


def test_running_means_that_all_pods_have_joined() -> None:
    world = World()
    world.pass_preflight()
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Starting"
    assert world.condition("PodsReady") == ("False", "Starting", "waiting for 2 pods to join")
    world.start_pods()
    world.settle()
    assert world.status.phase == "Running"
    assert world.condition("PodsReady")[0] == "True"
    assert world.decide().poll_address == "10.0.0.0"


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


def test_a_checkpoint_is_reported_at_once() -> None:
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


def test_an_answer_that_cannot_be_read_is_told_apart_from_none() -> None:
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


def test_failed_saves_of_an_attempt_that_ended_are_not_shown_any_more() -> None:
    world = running()
    world.reports(10, failedSaves=1, saveProblem="s3://results: no space left")
    world.settle()
    fail(world)
    assert not world.has_condition("CheckpointsSaved")


def test_a_failed_save_of_another_attempt_is_not_reported() -> None:
    world = running()
    world.reports(10, attempt=7, failedSaves=1, saveProblem="no space left")
    world.settle()
    assert not world.has_condition("CheckpointsSaved")


def test_the_progress_of_another_attempt_is_not_taken_for_this_one() -> None:
    world = running()
    world.reports(10, attempt=7)
    world.settle()
    assert world.status.progress is None


def test_success_tells_where_the_model_is() -> None:
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
    assert world.status.progress is not None
    assert world.status.progress.step == 800
    assert world.condition("Complete")[0] == "True"
    assert world.status.completion_time == world.now


def fail(world: World, code: int = 1, message: Termination | str = "ValueError: x") -> None:
    """One rank fails; its peers are stopped."""
    world.exit(world.pods_of(world.attempt)[1], code, message)
    world.control_jobs()
    world.obey()
    world.control_jobs()
    world.settle()


def test_a_failed_rank_is_named_and_restarted_with_growing_waits() -> None:
    world = running()
    for number, wait in enumerate([10, 20, 40]):
        fail(world)
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


def test_the_restart_budget_ends() -> None:
    world = running(restart={"maxFailures": 1})
    fail(world)
    world.tick(10)
    world.settle()
    world.run_attempt()
    fail(world)
    assert world.status.phase == "Failed"
    assert "1 of 1" in world.condition("Failed")[2]
    assert world.condition("Failed")[1] == "Failed"
    assert world.status.counters == Counters(failures=2)


@pytest.mark.parametrize("code", [64, 65, 66, 67, 68, 69])
def test_what_no_restart_can_mend_fails_at_once(code: int) -> None:
    world = running()
    fail(world, code, "BadData: spec.subjects[0].images: 3 images are broken")
    assert world.status.phase == "Failed"
    assert "spec.subjects[0].images" in world.condition("Failed")[2]
    assert world.record.final


def test_a_stall_is_counted_apart_and_uses_up_the_budget() -> None:
    world = running(restart={"maxFailures": 0})
    fail(world, 70, Termination(rank=3, message="no progress for 900 s"))
    assert world.status.counters == Counters(stalls=1)
    assert world.record.outcome == "Stalled"
    assert world.record.rank == 3
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


def test_a_disruption_is_recognised_when_no_pod_object_is_left() -> None:
    world = running()
    world.evict(world.pods_of(world.attempt)[0])
    world.control_jobs()
    world.obey()
    world.control_jobs()
    world.obey()
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


def test_a_pod_on_a_lost_node_is_escaped_after_the_timeout() -> None:
    world = running(terminatingTimeoutSeconds=600)
    lost, peer = world.pods_of(world.attempt)
    world.lose_node(lost)
    world.tick(30)
    world.exit(peer, 1, "connection timed out")
    world.finish_stopping()
    assert world.status.phase == "Running"
    world.tick(600)
    world.settle()
    assert world.attempt.deleting
    assert world.status.phase == "Restarting"
    assert world.record.outcome == "Disrupted"
    world.tick(10)
    world.settle()
    assert [job.attempt for job in world.live] == [1]
    assert world.status.counters == Counters(disruptions=1)


def test_a_pod_that_was_deleted_by_hand_ends_the_attempt() -> None:
    world = running()
    world.delete_pod(world.pods_of(world.attempt)[0])
    world.obey()
    world.tick(1)
    world.control_jobs()
    world.settle()
    assert world.attempt.deleting
    world.finish_stopping()
    assert world.record.outcome == "Disrupted"
    assert "took its place" in world.record.reason


def test_a_job_that_was_deleted_by_hand_is_made_again_as_the_next_attempt() -> None:
    world = running()
    world.delete_job("mug-0")
    world.finish_stopping()
    assert world.record.outcome == "Disrupted"
    world.tick(10)
    world.settle()
    assert world.attempt.name == "mug-1"


def test_a_node_that_failed_twice_is_avoided() -> None:
    world = running()
    for _ in range(2):
        fail(world)
        world.tick(60)
        world.settle()
        world.run_attempt()
    (*_, job) = world.applied
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (preferred,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred["preference"]["matchFields"] == [
        {"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}
    ]


def test_an_image_that_cannot_be_pulled_fails_fast() -> None:
    world = World()
    world.pass_preflight()
    world.control_jobs()
    world.pull_fails()
    world.settle()
    assert world.status.phase == "Starting"
    assert world.condition("PodsReady")[1] == "ImagePullBackOff"
    world.tick(POLICY.image_pull_grace_seconds)
    world.finish_stopping()
    assert world.status.phase == "Failed"
    assert "nothing:1" in world.condition("Failed")[2]
    assert not world.live


def test_the_start_deadline_does_not_count_queueing() -> None:
    world = World(dreambooth_job(queue="gpus", startDeadlineSeconds=100))
    world.pass_preflight()
    world.settle()
    assert world.status.phase == "Queued"
    world.tick(10_000)
    world.settle()
    assert world.status.phase == "Queued"
    world.queue_admits(world.attempt)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Starting"
    world.tick(100)
    world.finish_stopping()
    assert world.status.phase == "Failed"
    assert "startDeadlineSeconds" in world.condition("Failed")[2]


def test_without_deadlines_pods_may_wait_for_nodes_and_run_for_ever() -> None:
    world = World()
    world.pass_preflight()
    world.control_jobs()
    world.settle()
    world.tick(10_000_000)
    world.settle()
    assert world.status.phase == "Starting"
    world = running()
    world.tick(10_000_000)
    world.settle()
    assert world.status.phase == "Running"


def test_the_active_deadline_counts_all_attempts() -> None:
    world = running(activeDeadlineSeconds=100)
    world.tick(60)
    fail(world)
    assert world.status.run_seconds == 60
    world.tick(10)
    world.settle()
    world.run_attempt()
    world.tick(39)
    world.settle()
    assert world.status.phase == "Running"
    world.tick(1)
    world.finish_stopping()
    assert world.status.phase == "Failed"
    assert "activeDeadlineSeconds" in world.condition("Failed")[2]


def test_suspending_stops_the_pods_and_resuming_starts_the_next_attempt() -> None:
    world = running()
    world.change(suspend=True)
    world.settle()
    assert world.record.outcome == "Suspended"
    assert world.record.ended is None
    assert world.attempt.deleting
    world.finish_stopping()
    assert world.status.phase == "Suspended"
    assert not world.jobs.keys() - {"mug-preflight"}
    assert world.status.counters == Counters()
    world.change(nodes=1)
    world.settle()
    assert world.status.phase == "Suspended"
    world.change(suspend=False)
    world.settle()
    assert world.attempt.name == "mug-1"
    assert world.completions["mug-1"] == 1
    world.run_attempt()
    assert world.status.phase == "Running"


def saved(world: World, step: int) -> Termination:
    """A pod's termination message after a save; an output's name may have spaces."""
    checkpoint = Checkpoint(step=step, uri=f"s3://my results/{step}", time=world.now)
    return Termination(message="stopped", checkpoint=checkpoint)


def test_the_checkpoint_that_a_stopping_attempt_saved_last_is_reported() -> None:
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


def test_the_checkpoint_that_a_successful_attempt_saved_last_is_reported() -> None:
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


def test_a_termination_message_counts_when_the_job_goes_with_its_pods() -> None:
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


def test_a_job_that_is_suspended_from_the_start_does_nothing() -> None:
    world = World(dreambooth_job(suspend=True))
    world.settle()
    assert world.status.phase == "Suspended"
    assert not world.applied


def test_training_that_ends_while_it_is_suspended_has_succeeded() -> None:
    world = running()
    world.change(suspend=True)
    world.reconcile()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_queue_that_takes_the_nodes_back_is_a_preemption_and_keeps_the_attempt() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    assert world.status.phase == "Queued"
    assert world.condition("Queued")[0] == "True"
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.status.counters in (None, Counters())
    world.tick(30)
    world.queue_suspends(world.attempt)
    world.settle()
    assert world.status.phase == "Queued"
    assert world.status.counters == Counters(preemptions=1)
    assert world.status.run_seconds == 30
    world.obey()
    world.settle()
    world.tick(5)
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.attempt.name == "mug-0"
    assert world.status.counters == Counters(preemptions=1)
    assert "Preempted" in world.event_reasons


def test_pods_that_were_made_before_the_start_was_written_down_belong_to_the_resumed_job() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.tick(30)
    world.queue_suspends(world.attempt)
    world.obey()
    world.control_jobs()
    world.settle()
    world.tick(5)
    world.queue_admits(world.attempt)
    world.control_jobs()
    world.tick(1)
    world.jobs["mug-0"] = replace(world.attempt, started=world.now)
    world.start_pods()
    world.settle()
    assert world.status.phase == "Running"
    assert world.status.counters == Counters(preemptions=1)


def test_a_job_that_fails_while_its_queue_holds_it_back_was_preempted() -> None:
    world = World(dreambooth_job(queue="gpus", restart={"maxFailures": 0}))
    world.pass_preflight()
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.queue_suspends(world.attempt)
    job = world.attempt
    world.jobs[job.name] = type(job)(
        **{f: getattr(job, f) for f in job.__slots__} | {"failed": True, "failing": world.now}
    )
    world.settle()
    assert world.record.outcome is None or world.record.number == 1
    assert world.status.counters is not None
    assert world.status.counters.failures == 0
    assert world.status.counters.preemptions == 1
    assert world.attempt.name == "mug-1"


def test_the_time_to_live_deletes_the_job_once_it_is_over() -> None:
    world = running(ttlSecondsAfterFinished=60)
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.decide().requeue_seconds == 60
    world.tick(60)
    assert world.decide().actions == (DeleteDreamBoothJob(),)


def test_nothing_is_done_for_a_job_that_is_being_deleted() -> None:
    world = running()
    world.deleted = True
    decision = world.decide()
    assert (decision.actions, decision.status) == ((), None)


def test_a_name_that_is_taken_is_told_and_training_goes_on() -> None:
    world = running()
    world.blocked = Blocked("NameTaken", "Service mug-ranks exists and is not this job's")
    world.settle()
    assert world.condition("Accepted")[:2] == ("False", "NameTaken")
    assert "Service mug-ranks" in world.condition("Accepted")[2]
    world.reports(step=5)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.step == 5
    assert world.status.phase == "Running"
    assert [job.name for job in world.live] == ["mug-0"]
    world.blocked = None
    world.settle()
    assert world.condition("Accepted")[0] == "True"


def test_shared_children_that_were_deleted_are_made_again() -> None:
    world = running()
    world.applied.clear()
    world.missing = frozenset({"ConfigMap", "Service"})
    world.reconcile()
    assert kinds(world) == [("Service", "mug-ranks"), ("ConfigMap", "mug-config")]


def test_a_status_that_was_lost_is_made_again_from_the_children() -> None:
    world = running()
    fail(world)
    world.tick(10)
    world.settle()
    world.run_attempt()
    job = world.applied[-1]
    assert json.loads(job["metadata"]["annotations"][COUNTERS_ANNOTATION])["failures"] == 1
    world.write(None)
    world.settle()
    assert world.status.phase == "Running"
    assert world.record.number == 1
    assert world.status.counters == Counters(failures=1)
    assert [job.name for job in world.live] == ["mug-1"]


def test_a_status_of_nonsense_does_not_touch_running_training() -> None:
    world = running()
    done = AttemptStatus(number=0, started=START, ended=START, outcome="Failed", final=True)
    world.write(
        Status(phase="Failed", attempts=[done], completion_time=START, counters=Counters(stalls=9))
    )
    before = world.attempt
    world.settle()
    assert world.attempt == before
    assert world.status.phase == "Running"
    assert not world.has_condition("Failed")


def test_an_attempt_that_nobody_recorded_is_not_made_twice() -> None:
    world = World()
    world.pass_preflight()
    world.write(world.status.model_copy(update={"attempts": []}))
    world.settle()
    assert [job.name for job in world.live] == ["mug-0"]
    assert world.record.number == 0


def test_counters_of_nonsense_are_counted_anew() -> None:
    world = running()
    fail(world)
    world.tick(10)
    world.settle()
    world.run_attempt()
    world.write(world.status.model_copy(update={"counters": Counters(failures=99, stalls=9)}))
    world.settle()
    assert world.status.counters == Counters(failures=1)
    fail(world)
    world.settle()
    assert world.status.counters == Counters(failures=2)


def test_attempts_that_never_were_are_struck_out() -> None:
    world = running()
    before = world.attempt
    records = [*world.status.attempts, AttemptStatus(number=7, started=START)]
    world.write(world.status.model_copy(update={"attempts": records}))
    world.settle()
    assert world.attempt == before
    assert [record.number for record in world.status.attempts] == [0]


def test_an_attempt_that_goes_on_shows_that_the_preflight_passed() -> None:
    world = running()
    world.write(world.status.model_copy(update={"conditions": []}))
    world.settle()
    assert world.condition("PreflightPassed")[:2] == ("True", "Passed")


def test_a_job_that_goes_on_has_no_time_of_completion() -> None:
    world = running()
    world.write(world.status.model_copy(update={"completion_time": START}))
    world.settle()
    assert world.status.completion_time is None


def test_a_failure_after_a_preemption_is_a_failure() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.tick(30)
    world.queue_suspends(world.attempt)
    world.obey()
    world.settle()
    world.tick(30)
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.tick(30)
    fail(world)
    assert world.status.counters == Counters(failures=1, preemptions=1)
    assert world.record.rank == 1


def test_a_preemption_whose_pods_are_killed_is_counted_once() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.queue_suspends(world.attempt)
    world.settle()
    job = world.attempt
    world.jobs[job.name] = replace(job, failing=world.now, failed=True)
    world.settle()
    assert world.status.counters == Counters(preemptions=1)
    assert world.attempt.name == "mug-1"


def test_a_clock_that_is_ahead_on_a_node_does_not_hide_a_failure() -> None:
    world = running()
    culprit = world.pods_of(world.attempt)[1]
    world.exit(culprit, 1, "ValueError: x")
    ahead = replace(world.pods[culprit.uid], finished=world.now + timedelta(seconds=90))
    world.pods[culprit.uid] = ahead
    world.control_jobs()
    world.tick(1)
    world.obey()
    world.control_jobs()
    world.settle()
    assert world.record.outcome == "Failed"
    assert world.record.node == "node-1"


def test_a_pod_that_failed_without_its_container_is_told_of() -> None:
    world = running()
    pod = world.pods_of(world.attempt)[0]
    told = "Usage of EmptyDir volume exceeds the limit"
    world.pods[pod.uid] = replace(pod, phase="Failed", reason="Evicted", reason_message=told)
    world.control_jobs()
    world.tick(1)
    world.obey()
    world.control_jobs()
    world.settle()
    assert world.record.outcome == "Failed"
    assert world.record.node == "node-0"
    assert world.record.reason.endswith(f"Evicted: {told}")


def test_a_preflight_on_a_lost_node_is_made_again() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    (pod,) = world.pods.values()
    world.lose_node(pod)
    world.settle()
    before = world.jobs["mug-preflight"].uid
    world.tick(world.job.spec.runtime.terminating_timeout_seconds)
    world.settle()
    assert world.jobs["mug-preflight"].uid != before
    assert world.status.phase == "Preflight"


def test_a_preflight_that_finds_no_node_fails_after_the_start_deadline() -> None:
    world = World(dreambooth_job(startDeadlineSeconds=100))
    world.settle()
    world.control_jobs()
    world.settle()
    world.tick(100)
    world.settle()
    assert world.status.phase == "Failed"
    assert world.condition("Failed")[1] == "NotStarted"


def test_a_preflight_that_is_tried_again_shows_what_it_found() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    (pod,) = world.pods.values()
    world.exit(pod, 1, "error: spec.output: storage does not answer")
    world.settle()
    found = world.condition("PreflightPassed")
    assert found == ("Unknown", "Retrying", "error: spec.output: storage does not answer")


def test_a_long_pull_does_not_use_up_the_patience_with_errors() -> None:
    world = World()
    world.pass_preflight()
    world.control_jobs()
    for uid, pod in world.pods.items():
        world.pods[uid] = replace(pod, scheduled=world.now, node="node-0")
    world.tick(900)
    world.pull_fails()
    world.settle()
    assert world.status.phase == "Starting"
    assert [job.name for job in world.live] == ["mug-0"]


def test_pods_whose_job_was_deleted_in_the_background_end_before_the_next_attempt() -> None:
    world = running()
    world.delete_job("mug-0", background=True)
    world.settle()
    assert world.record.outcome == "Disrupted"
    world.tick(60)
    world.settle()
    assert not world.live
    assert world.condition("PodsReady")[1] == "PodsLeft"
    world.obey()
    world.control_jobs()
    world.settle()
    assert [job.name for job in world.live] == ["mug-1"]


def test_time_in_the_queue_is_not_run_time_without_a_queue_of_its_own() -> None:
    world = running(activeDeadlineSeconds=100)
    world.tick(50)
    world.queue_suspends(world.attempt)
    world.settle()
    assert world.status.phase == "Queued"
    world.obey()
    world.tick(1000)
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.status.run_seconds == 50
    assert world.condition("Queued")[0] == "False"


def test_an_operator_that_was_away_does_not_count_its_absence_as_run_time() -> None:
    world = running(activeDeadlineSeconds=3600)
    world.tick(60)
    world.exit(world.pods_of(world.attempt)[1], 1)
    world.control_jobs()
    world.obey()
    world.control_jobs()
    world.tick(7200)
    world.settle()
    assert world.status.run_seconds == 60
    assert world.attempt.name == "mug-1"


def test_nodes_that_were_changed_unseen_end_the_attempt() -> None:
    world = running()
    world.change(suspend=True)
    world.change(nodes=4)
    world.change(suspend=False)
    world.finish_stopping()
    world.tick(1)
    world.settle()
    assert world.attempt.name == "mug-1"
    assert world.completions["mug-1"] == 4
    assert world.status.counters == Counters()


def test_an_attempt_that_stops_says_so() -> None:
    world = running()
    world.change(suspend=True)
    world.settle()
    assert world.condition("PodsReady")[:2] == ("False", "Stopping")


def test_the_event_of_an_end_names_the_attempt_that_ended() -> None:
    world = running()
    world.evict(world.pods_of(world.attempt)[0], "PreemptionByScheduler")
    world.finish_stopping()
    (told,) = [event.message for event in world.events if event.reason == "AttemptPreempted"]
    assert told.startswith("Attempt 0, ")
    assert "Preempted" not in world.event_reasons


def test_what_the_api_server_refuses_is_told() -> None:
    world = World()
    world.blocked = Blocked("NotAllowed", "exceeded quota: team-a")
    world.settle()
    assert world.condition("Accepted") == ("False", "NotAllowed", "exceeded quota: team-a")
    assert world.status.phase == "Pending"
    assert world.decide().requeue_seconds == 60
