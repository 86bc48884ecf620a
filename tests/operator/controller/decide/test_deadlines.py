"""Time limits, and what counts towards them."""

from __future__ import annotations

from dreambooth_api.models.status import Counters
from dreambooth_operator.controller.decide.deadlines import IDLE_QUOTA_SECONDS
from tests.operator.controller.world import World, dreambooth_job, running


def test_a_pod_on_a_lost_node_is_given_up_after_the_timeout() -> None:
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


def test_the_start_deadline_does_not_include_time_in_the_queue() -> None:
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


def test_a_job_gives_quota_back_that_it_cannot_use() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.settle()
    world.queue_admits(world.attempt)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Starting"
    world.tick(IDLE_QUOTA_SECONDS)
    world.finish_stopping()
    assert world.record.outcome == "Disrupted"
    assert "gave its quota back to the queue" in world.record.reason
    world.tick(10)
    world.settle()
    assert world.status.phase == "Queued"  # behind the jobs that can use it
    assert [job.attempt for job in world.live] == [1]


def test_pods_that_have_nodes_keep_the_quota() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.pass_preflight()
    world.settle()
    world.queue_admits(world.attempt)
    world.control_jobs()
    world.start_pods()
    world.settle()
    world.tick(10 * IDLE_QUOTA_SECONDS)
    world.settle()
    assert world.record.outcome is None


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
    world.fail()
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


def test_time_after_the_end_of_an_attempt_is_not_run_time() -> None:
    world = running(activeDeadlineSeconds=3600)
    world.tick(60)
    world.exit(world.pods_of(world.attempt)[1], 1)
    world.control_jobs()
    world.stop_pods()
    world.control_jobs()
    world.tick(7200)
    world.settle()
    assert world.status.run_seconds == 60
    assert world.attempt.name == "mug-1"
