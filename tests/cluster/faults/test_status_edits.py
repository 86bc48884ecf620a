"""A status edited by hand: training continues, and the operator restores the status."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.client import ApiError
from tests.cluster.faults.crd import definition, replace_definition, schema
from tests.cluster.faults.harness import Harness, counters

LONG_AGO = "2001-01-01T00:00:00Z"
FAR_AHEAD = "2101-01-01T00:00:00Z"
MOST_WRITES = 6
"""The status, and an event for each thing in it that is reported again."""


def failed_record() -> dict[str, Any]:
    return {
        "number": 0,
        "started": LONG_AGO,
        "ended": LONG_AGO,
        "outcome": "Failed",
        "final": True,
        "reason": "by hand",
    }


BROKEN_STATUSES: dict[str, dict[str, Any]] = {
    "succeeded": {"phase": "Succeeded", "stage": None, "completionTime": LONG_AGO},
    "failed": {"phase": "Failed", "attempts": [failed_record()], "completionTime": LONG_AGO},
    "waiting": {"phase": "Pending", "attempts": None, "startTime": None},
    "no attempts": {"attempts": []},
    "attempts to come": {
        "attempts": [{"number": 0, "started": LONG_AGO}, {"number": 7, "started": LONG_AGO}]
    },
    "no conditions": {"conditions": None},
    "other conditions": {
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": "ByHand",
                "message": "",
                "lastTransitionTime": LONG_AGO,
            }
            for kind, status in (
                ("Accepted", "False"),
                ("Complete", "True"),
                ("Failed", "True"),
                ("PreflightPassed", "False"),
                ("PodsReady", "False"),
            )
        ]
    },
    "huge counters": {"counters": counters(failures=10**15, stalls=10**15, disruptions=3)},
    "no counters": {"counters": None},
    "progress": {
        "stage": "Exporting",
        "progress": {"step": 10**12, "totalSteps": 1, "loss": "?", "updatedAt": FAR_AHEAD},
        "lastCheckpoint": {"step": 10**12, "uri": "nowhere", "time": FAR_AHEAD},
    },
    "nothing": dict.fromkeys(("phase", "stage", "conditions", "attempts", "counters", "progress")),
}


@pytest.mark.parametrize("broken", BROKEN_STATUSES)
def test_a_broken_status_is_restored(harness: Harness, broken: str) -> None:
    harness.train(activeDeadlineSeconds=3600, ttlSecondsAfterFinished=1)
    # A failure that the budget knows of, and that may be forgotten.
    harness.cluster.end(harness.running_pods("mug-0", 2)[1], 1)
    harness.wait_attempt("mug", 1)
    before, expected = harness.training(), status_summary(harness)
    written = len(harness.gateway.writes)
    edit(harness, BROKEN_STATUSES[broken])
    harness.wait(lambda: status_summary(harness) == expected)
    assert harness.settles()
    assert len(harness.gateway.writes) - written <= MOST_WRITES
    assert harness.training().children == before.children
    assert status_summary(harness) == expected


@pytest.mark.parametrize(
    "status",
    [{"phase": "Nonsense"}, {"attempts": [{"number": -1}]}, {"counters": {"failures": "many"}}],
    ids=["phase", "attempts", "counters"],
)
def test_what_is_no_status_is_refused(harness: Harness, status: dict[str, Any]) -> None:
    before = harness.train()
    written = harness.job()["metadata"]["resourceVersion"]
    with pytest.raises(ApiError, match="422"):
        edit(harness, status)
    assert harness.job()["metadata"]["resourceVersion"] == written
    assert harness.training() == before


def test_a_status_that_cannot_be_read_is_written_anew(harness: Harness) -> None:
    before = harness.train()
    lax = definition()
    schema(lax)["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    replace_definition(harness.cluster, lax)
    try:
        unreadable = {"phase": 7, "attempts": "none", "counters": [], "conditions": {"a": "b"}}
        harness.wait(lambda: edited(harness, unreadable))
        harness.wait(harness.reports)
        assert harness.settles()
        assert harness.training() == before
    finally:
        replace_definition(harness.cluster, definition())


def edited(harness: Harness, status: dict[str, Any]) -> bool:
    """Edit the status, unless the API server still goes by the old definition."""
    try:
        edit(harness, status)
    except ApiError:
        return False
    return True


def edit(harness: Harness, status: dict[str, Any]) -> None:
    """`kubectl patch --subresource=status`."""
    harness.cluster.patch(f"{harness.job_path()}/status", {"status": status})


def status_summary(harness: Harness) -> dict[str, Any]:
    """The status without history and timestamps."""
    status = harness.status()
    last = (status.get("attempts") or [{}])[-1]
    return {
        "conditions": {each["type"]: each["status"] for each in status.get("conditions", [])},
        "last attempt": [last.get(name) for name in ("number", "ended", "outcome", "final")],
        "step": status.get("progress", {}).get("step"),
        **{name: status.get(name) for name in ("phase", "stage", "counters", "completionTime")},
    }
