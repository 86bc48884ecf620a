"""An attempt from its start to its end."""

from __future__ import annotations

from dataclasses import replace

from tests.operator.controller.world import POLICY, World, running


def kinds(world: World) -> list[tuple[str, str]]:
    return [(m["kind"], m["metadata"]["name"]) for m in world.applied]


def test_a_job_is_running_when_all_pods_have_joined() -> None:
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
    assert world.decide().poll_address == "10.0.0.0:9400"


def test_a_pod_that_was_deleted_by_hand_ends_the_attempt() -> None:
    world = running()
    world.delete_pod(world.pods_of(world.attempt)[0])
    world.stop_pods()
    world.tick(1)
    world.control_jobs()
    world.settle()
    assert world.attempt.deleting
    world.finish_stopping()
    assert world.record.outcome == "Disrupted"
    assert "took its place" in world.record.reason


def test_a_job_that_was_deleted_by_hand_is_replaced_by_the_next_attempt() -> None:
    world = running()
    world.delete_job("mug-0")
    world.finish_stopping()
    assert world.record.outcome == "Disrupted"
    world.tick(10)
    world.settle()
    assert world.attempt.name == "mug-1"


def test_a_reason_and_message_that_a_status_cannot_hold_do_not_stop_the_job() -> None:
    """A virtual node's provider may report anything."""
    world = World()
    world.pass_preflight()
    world.control_jobs()
    for uid, pod in world.pods.items():
        world.pods[uid] = replace(pod, waiting="quota: exceeded", waiting_message="\udc80\x1b[2J")
    world.settle()
    _, reason, message = world.condition("PodsReady")
    assert reason == "Other"
    assert message.endswith(": [2J")


def test_an_image_that_cannot_be_pulled_fails_the_job_after_the_grace_period() -> None:
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


def test_shared_children_that_were_deleted_are_created_again() -> None:
    world = running()
    world.applied.clear()
    world.damaged = frozenset({"ConfigMap", "Service"})
    world.reconcile()
    assert kinds(world) == [("Service", "mug-ranks"), ("ConfigMap", "mug-config")]


def test_a_long_pull_does_not_use_up_the_grace_period() -> None:
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


def test_an_attempt_that_is_stopping_has_a_condition_that_says_so() -> None:
    world = running()
    world.change(suspend=True)
    world.settle()
    assert world.condition("PodsReady")[:2] == ("False", "Stopping")


def test_the_event_of_an_end_names_the_attempt() -> None:
    world = running()
    world.evict(world.pods_of(world.attempt)[0], "PreemptionByScheduler")
    world.finish_stopping()
    (message,) = [event.message for event in world.events if event.reason == "AttemptPreempted"]
    assert message.startswith("Attempt 0, ")
    assert "Preempted" not in world.event_reasons
