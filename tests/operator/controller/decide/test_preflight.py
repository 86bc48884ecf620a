"""The preflight: started first, retried, and reported in full."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.pods.runtime import Preflight
from dreambooth_api.models.status import Counters
from tests.operator.controller.world import POLICY, World, dreambooth_job


def kinds(world: World) -> list[tuple[str, str]]:
    return [(m["kind"], m["metadata"]["name"]) for m in world.applied]


def test_a_new_job_is_checked_before_a_gpu_is_requested() -> None:
    world = World()
    world.settle()
    assert kinds(world) == [("ConfigMap", "mug-config"), ("Job", "mug-preflight")]
    assert world.status.phase == "Preflight"


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
    world.control_jobs()
    world.settle()
    assert world.jobs["mug-preflight"].failed, "kept for inspection, without its pod"
    assert all(pod.ended for pod in world.pods.values())
    assert "nothing:1" in world.condition("Failed")[2]


def test_a_preflight_on_a_lost_node_is_created_again() -> None:
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


def test_a_preflight_that_is_retried_shows_its_report() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    (pod,) = world.pods.values()
    world.exit(pod, 1, "error: spec.output: storage does not answer")
    world.settle()
    found = world.condition("PreflightPassed")
    assert found == ("Unknown", "Retrying", "error: spec.output: storage does not answer")


def test_time_in_a_queue_does_not_count_and_is_shown() -> None:
    world = World(dreambooth_job(startDeadlineSeconds=100))
    world.settle()
    world.queue_suspends(world.jobs["mug-preflight"])
    world.jobs["mug-preflight"] = replace(world.jobs["mug-preflight"], queue="default")
    world.settle()
    assert world.status.phase == "Queued"
    message = "LocalQueue default holds Job mug-preflight of the preflight back"
    for kind, status in (("Queued", "True"), ("PreflightPassed", "Unknown")):
        assert world.condition(kind)[:2] == (status, "Waiting")
        assert world.condition(kind)[2].startswith(message)
    world.tick(10_000)
    assert world.decide().status is None, "a wait is written once"
    world.settle()
    assert world.status.phase == "Queued"
    world.queue_admits(world.jobs["mug-preflight"])
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Preflight"
    assert not world.has_condition("Queued")
    world.pass_preflight()
    # The attempt's Job may be held back, too: that is no preemption.
    world.queue_suspends(world.attempt)
    world.settle()
    assert world.status.phase == "Queued"
    assert (world.status.counters or Counters()).preemptions == 0


@pytest.mark.parametrize(
    ("runtime", "queue"),
    [
        ({}, ""),
        ({"queue": "gpus"}, "gpus"),
        ({"queue": "gpus", "preflight": {"queue": "small"}}, "small"),
        ({"preflight": {"queue": "small"}}, "small"),
    ],
)
def test_the_preflight_waits_in_the_jobs_queue_or_in_its_own(
    runtime: dict[str, Any], queue: str
) -> None:
    world = World(dreambooth_job(**runtime))
    world.settle()
    job = world.jobs["mug-preflight"]
    assert (job.queue, job.suspended) == (queue, bool(queue))
    assert world.status.phase == ("Queued" if queue else "Preflight")
    if queue:
        assert f"LocalQueue {queue} holds Job mug-preflight" in world.condition("Queued")[2]
        assert queue in world.events[-1].message
    world.pass_preflight()
    assert world.attempt.queue == runtime.get("queue", "")


@pytest.mark.parametrize(
    ("runtime", "needs"),
    [
        ({}, "500m of cpu and 2Gi of memory"),
        (
            {"preflight": {"resources": {"limits": {"cpu": "1"}}}},
            "needs quota for 1 of cpu.",
        ),
    ],
)
def test_a_preflight_that_is_held_says_what_its_queue_needs_quota_for(
    runtime: dict[str, Any], needs: str
) -> None:
    """A ClusterQueue with quota for GPUs alone never admits it."""
    world = World(dreambooth_job(queue="gpus", **runtime))
    world.settle()
    for condition in ("Queued", "PreflightPassed"):
        assert needs in world.condition(condition)[2]


def test_a_queue_that_nobody_named_is_shown_with_the_way_out() -> None:
    world = World()
    world.settle()
    world.queue_suspends(world.jobs["mug-preflight"])
    world.settle()
    message = world.condition("Queued")[2]
    assert "a queue that the Job does not name" in message
    assert "spec.runtime.preflight.queue" in message
    assert "FirstPod" in message


def test_a_preflight_that_is_held_moves_to_the_queue_of_a_changed_setting() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.settle()
    world.change(preflight=Preflight(queue="small"))
    world.settle()
    assert world.jobs["mug-preflight"].deleting
    world.control_jobs()
    world.settle()
    assert world.jobs["mug-preflight"].queue == "small"


def test_suspending_stops_a_running_preflight_and_resuming_starts_it_again() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    world.settle()
    before = world.jobs["mug-preflight"].uid
    world.change(suspend=True)
    world.settle()
    assert world.status.phase == "Suspended"
    assert world.jobs["mug-preflight"].deleting
    world.change(suspend=False)
    world.settle()
    assert world.status.phase == "Preflight"
    assert world.condition("PreflightPassed")[1] == "Stopping"
    world.control_jobs()
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert world.jobs["mug-preflight"].uid != before
    world.pass_preflight()
    assert world.status.phase == "Starting"


def test_a_preflight_that_is_being_deleted_changes_the_status_once() -> None:
    world = World(dreambooth_job())
    world.settle()
    world.control_jobs()
    world.start_pods()
    world.settle()
    world.delete_job("mug-preflight")
    world.settle()
    assert world.condition("PreflightPassed")[1] == "Stopping"
    world.tick(20)
    assert world.decide().status is None


def test_a_suspended_preflight_on_a_lost_node_frees_its_name() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    world.change(suspend=True)
    world.settle()
    (pod,) = world.pods.values()
    world.lose_node(pod)
    world.tick(world.job.spec.runtime.terminating_timeout_seconds)
    world.settle()
    assert not world.jobs
    assert world.status.phase == "Suspended"


def first_pod(**runtime: Any) -> World:
    """A job that leaves the checks to the first pod, with its first attempt created."""
    world = World(dreambooth_job(preflight={"runIn": "FirstPod"}, **runtime))
    world.settle()
    return world


def checks(world: World) -> bool:
    """Whether the newest attempt was told to make the checks."""
    (*_, job) = world.applied
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return {"name": "DREAMBOOTH_PREFLIGHT", "value": "1"} in env


def test_the_first_pod_can_make_the_checks() -> None:
    world = first_pod(queue="gpus")
    assert [name for _, name in kinds(world)] == ["mug-ranks", "mug-config", "mug-0"]
    assert checks(world)
    assert world.status.phase == "Queued"
    assert world.condition("PreflightPassed")[:2] == ("Unknown", "InFirstPod")
    world.queue_admits(world.attempt)
    world.control_jobs()
    world.settle()
    assert world.condition("PreflightPassed")[0] == "Unknown"
    world.run_attempt()
    assert world.status.phase == "Running"
    assert world.condition("PreflightPassed")[0] == "True"
    world.fail()
    world.tick(60)
    world.settle()
    assert world.attempt.name == "mug-1"
    assert not checks(world), "they were made"


def test_checks_that_were_interrupted_are_made_by_the_next_attempt() -> None:
    world = first_pod()
    world.control_jobs()
    world.evict(world.pods_of(world.attempt)[0])
    world.finish_stopping()
    world.tick(60)
    world.settle()
    assert world.attempt.name == "mug-1"
    assert checks(world)


def test_a_job_that_the_first_pod_refuses_has_failed_with_its_report() -> None:
    world = first_pod()
    world.control_jobs()
    report = "error: spec.subjects[0].images: no images"
    world.exit(world.pods_of(world.attempt)[0], 65, Termination(message=report))
    world.control_jobs()
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Failed"
    assert world.condition("PreflightPassed") == ("False", "Refused", report)
    assert report in world.condition("Failed")[2]


def test_a_preflight_that_is_held_gives_way_to_the_first_pod() -> None:
    world = World(dreambooth_job(queue="gpus"))
    world.settle()
    world.change(preflight=Preflight(run_in="FirstPod"))
    world.settle()
    assert world.jobs["mug-preflight"].deleting
    assert world.attempt.name == "mug-0"


def test_a_failed_preflight_stays_failed_when_the_setting_changes() -> None:
    world = World()
    world.settle()
    world.control_jobs()
    world.start_pods()
    world.exit(next(iter(world.pods.values())), 65, "no images")
    world.control_jobs()
    world.settle()
    world.change(preflight=Preflight(run_in="FirstPod"))
    world.settle()
    assert world.status.phase == "Failed"
    assert not world.live
