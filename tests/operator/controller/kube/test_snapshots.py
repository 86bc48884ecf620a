"""What the operator keeps of the objects that it watches."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_operator.controller.kube.snapshots import job_snapshot


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
