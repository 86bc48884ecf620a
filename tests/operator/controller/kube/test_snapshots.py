"""What the operator keeps of the objects that it watches."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_operator.controller.kube.job_snapshots import job_snapshot
from dreambooth_operator.controller.kube.pod_snapshots import pod_snapshot


def attempt(*, suspend: bool, condition: str | None) -> dict[str, Any]:
    """A batch/v1 Job of a queue; `condition` is the status of its condition Suspended."""
    conditions = [{"type": "Suspended", "status": condition}] if condition else []
    return {
        "metadata": {
            "namespace": "team-a",
            "name": "mug-0",
            "uid": "uid-1",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-01T12:00:00Z",
            "labels": {"dreambooth.dev/job": "mug", "dreambooth.dev/attempt": "0"},
        },
        "spec": {"suspend": suspend},
        "status": {"conditions": conditions},
    }


@pytest.mark.parametrize(
    ("suspend", "condition", "suspended"),
    [
        (True, None, True),  # new
        (True, "True", True),
        (False, "True", True),  # resumed, but the Job controller has not reported it yet
        (False, "False", False),
        (True, "False", True),  # its pods are about to be stopped
        (False, None, False),  # not for a queue
    ],
)
def test_job_is_suspended_until_the_job_controller_reports_that_it_resumed(
    suspend: bool, condition: str | None, suspended: bool
) -> None:
    snapshot = job_snapshot(attempt(suspend=suspend, condition=condition))
    assert snapshot is not None
    assert snapshot.suspended is suspended


def pod(**status: Any) -> dict[str, Any]:
    metadata = attempt(suspend=False, condition=None)["metadata"]
    return {"metadata": metadata, "spec": {}, "status": status}


def container(name: str, **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


INITIALIZING = container("trainer", waiting={"reason": "PodInitializing"})


def test_a_pod_waits_for_what_its_init_container_waits_for() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    seen = pod_snapshot(
        pod(
            containerStatuses=[INITIALIZING],
            initContainerStatuses=[container("proxy", waiting=waiting)],
        )
    )
    assert seen is not None
    assert (seen.waiting, seen.waiting_message) == ("ImagePullBackOff", "no such image")
    assert seen.cannot_start


def test_a_pod_that_its_init_container_failed_says_so() -> None:
    ended = {"exitCode": 3, "message": "no route"}
    seen = pod_snapshot(
        pod(
            phase="Failed",
            containerStatuses=[INITIALIZING],
            initContainerStatuses=[container("proxy", terminated=ended)],
        )
    )
    assert seen is not None
    assert (seen.reason, seen.reason_message) == (
        "InitContainerFailed",
        "proxy: exit code 3: no route",
    )


def test_a_sidecar_never_decides_how_a_pod_ended() -> None:
    seen = pod_snapshot(
        pod(
            phase="Failed",
            containerStatuses=[container("trainer", terminated={"exitCode": 1, "message": "oh"})],
            initContainerStatuses=[container("proxy", terminated={"exitCode": 143})],
        )
    )
    assert seen is not None
    assert (seen.exit_code, seen.reason) == (1, "")


@pytest.mark.parametrize("seconds", [2**40, 2**62])
def test_a_grace_period_that_no_time_can_hold_is_cut(seconds: int) -> None:
    body = pod()
    body["metadata"] |= {
        "deletionTimestamp": "2026-11-01T12:00:00Z",
        "deletionGracePeriodSeconds": seconds,
    }
    snapshot = pod_snapshot(body)
    assert snapshot is not None
    assert snapshot.deletion_requested is not None
