"""What counts is the end of the trainer's container: a sidecar that runs on keeps nothing."""

from __future__ import annotations

from dataclasses import replace

from dreambooth_api.models.status import Counters
from dreambooth_operator.controller.decide.sidecars import SIDECAR_SECONDS
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.controller.observability.job_metrics import count_gpu_pods
from tests.operator.controller.world import World, running


def end_trainer(world: World, pod: PodSnapshot, code: int, message: str = "") -> None:
    """The trainer's container ends; a sidecar keeps the pod Running."""
    world.exit(pod, code, message)
    world.pods[pod.uid] = replace(world.pods[pod.uid], phase="Running")


def stop_sidecars(world: World) -> None:
    for uid, pod in world.pods.items():
        if pod.deletion_requested:
            world.pods[uid] = replace(pod, phase="Failed" if pod.exit_code else "Succeeded")


def test_a_finished_job_is_closed_and_its_pods_are_deleted() -> None:
    world = running()
    for pod in world.pods_of(world.attempt):
        end_trainer(world, pod, 0)
    world.settle()
    assert world.live
    assert count_gpu_pods(world.pods.values()) == 2
    world.tick(SIDECAR_SECONDS)
    world.settle()
    assert world.attempt.deleting
    world.control_jobs()
    stop_sidecars(world)
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.record.outcome == "Succeeded"
    assert all(pod.released for pod in world.pods.values())


def test_a_pod_that_ends_by_itself_is_left_to_its_job() -> None:
    world = running()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, 0)
    world.tick(SIDECAR_SECONDS)
    world.settle()
    assert not world.attempt.deleting
    world.control_jobs()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.jobs["mug-0"].complete


def test_a_trainer_that_failed_beside_a_sidecar_ends_the_attempt() -> None:
    world = running()
    end_trainer(world, world.pods_of(world.attempt)[1], 1, "ValueError: x")
    world.settle()
    world.tick(SIDECAR_SECONDS)
    world.settle()
    assert world.attempt.deleting
    world.control_jobs()
    stop_sidecars(world)
    world.stop_pods()
    world.control_jobs()
    world.settle()
    assert world.status.counters == Counters(failures=1)
    assert world.record.reason == "ValueError: x"
    world.tick(10)
    world.settle()
    assert world.attempt.name == "mug-1"


def test_a_trainer_that_goes_on_beside_one_that_has_finished_is_not_stopped() -> None:
    world = running()
    end_trainer(world, world.pods_of(world.attempt)[0], 0)
    world.tick(10 * SIDECAR_SECONDS)
    world.settle()
    assert not world.attempt.deleting


def test_a_preflight_that_has_ended_beside_a_sidecar_has_ended() -> None:
    for code, phase in ((0, "Starting"), (65, "Failed")):
        world = World()
        world.settle()
        world.control_jobs()
        world.start_pods()
        (pod,) = world.pods.values()
        end_trainer(world, pod, code, "the report")
        world.settle()
        assert world.status.phase == "Preflight"
        world.tick(SIDECAR_SECONDS)
        world.settle()
        # One that refused the job is kept for inspection.
        job = world.jobs["mug-preflight"]
        assert (job.deleting, job.stop_reason) == ((False, "the report") if code else (True, ""))
        assert world.status.phase == phase
        assert world.condition("PreflightPassed")[2] == "the report"
