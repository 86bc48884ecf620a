"""Suspension by the user and by a queue."""

from __future__ import annotations

from dataclasses import replace

from dreambooth_api.models.status import Counters
from tests.operator.controller.world import World, dreambooth_job, running


def preempted() -> World:
    """A job whose queue has just suspended its first attempt, after 30 seconds of training."""
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.tick(30)
    world.queue_suspends(world.attempt)
    return world


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


def test_a_job_that_is_suspended_from_the_start_does_nothing() -> None:
    world = World(dreambooth_job(suspend=True))
    world.settle()
    assert world.status.phase == "Suspended"
    assert not world.applied


def test_an_attempt_that_completes_while_it_is_suspended_has_succeeded() -> None:
    world = running()
    world.change(suspend=True)
    world.reconcile()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"


def test_a_queue_that_suspends_the_job_preempts_and_keeps_the_attempt() -> None:
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
    world.stop_pods()
    world.settle()
    world.tick(5)
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.attempt.name == "mug-0"
    assert world.status.counters == Counters(preemptions=1)
    assert "Preempted" in world.event_reasons


def test_pods_created_before_the_start_time_was_written_belong_to_the_resumed_job() -> None:
    world = preempted()
    world.stop_pods()
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


def test_a_job_that_is_resumed_in_the_second_in_which_its_last_pod_ended_goes_on() -> None:
    world = preempted()
    world.settle()
    world.stop_pods()
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.attempt.name == "mug-0"
    assert world.status.counters == Counters(preemptions=1)


def test_a_job_that_fails_while_its_queue_suspends_it_was_preempted() -> None:
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


def test_a_failure_after_a_preemption_is_a_failure() -> None:
    world = preempted()
    world.stop_pods()
    world.settle()
    world.tick(30)
    world.queue_admits(world.attempt)
    world.run_attempt()
    world.tick(30)
    world.fail()
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


def test_time_while_suspended_is_not_run_time() -> None:
    world = running(activeDeadlineSeconds=100)
    world.tick(50)
    world.queue_suspends(world.attempt)
    world.settle()
    assert world.status.phase == "Queued"
    world.stop_pods()
    world.tick(1000)
    world.queue_admits(world.attempt)
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.status.run_seconds == 50
    assert world.condition("Queued")[0] == "False"


def test_nodes_that_were_changed_between_two_observations_end_the_attempt() -> None:
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
