"""The preflight: started first, retried, and reported in full."""

from __future__ import annotations

from dataclasses import replace

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
    assert world.condition("Queued") == ("True", "Waiting", message)
    assert world.condition("PreflightPassed") == ("Unknown", "Waiting", message)
    world.tick(10_000)
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
