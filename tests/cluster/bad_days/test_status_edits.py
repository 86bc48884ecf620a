"""A status that somebody edits by hand: training goes on, and the status comes right again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.bad_days.day import Day, counters
from tests.cluster.bad_days.definition import definition, replace_definition, schema
from tests.cluster.client import ApiError

LONG_AGO = "2001-01-01T00:00:00Z"
FAR_AHEAD = "2101-01-01T00:00:00Z"
MOST_WRITES = 6
"""The status, and an event for each thing in it that had to be said again."""


def failed_record() -> dict[str, Any]:
    return {
        "number": 0,
        "started": LONG_AGO,
        "ended": LONG_AGO,
        "outcome": "Failed",
        "final": True,
        "reason": "by hand",
    }


NONSENSE: dict[str, dict[str, Any]] = {
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
            {"type": kind, "status": status, "reason": "ByHand", "lastTransitionTime": LONG_AGO}
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


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_in_a_status_is_put_right(day: Day, nonsense: str) -> None:
    day.train(activeDeadlineSeconds=3600, ttlSecondsAfterFinished=1)
    # A failure that the budget knows of, and that may be forgotten.
    day.cluster.end(day.running_pods("mug-0", 2)[1], 1)
    day.wait_attempt("mug", 1)
    before, said = day.training(), truths(day)
    written = len(day.gateway.writes)
    edit(day, NONSENSE[nonsense])
    day.wait(lambda: truths(day) == said)
    assert day.settles()
    assert len(day.gateway.writes) - written <= MOST_WRITES
    assert day.training().children == before.children
    assert truths(day) == said


@pytest.mark.parametrize(
    "status",
    [{"phase": "Nonsense"}, {"attempts": [{"number": -1}]}, {"counters": {"failures": "many"}}],
    ids=["phase", "attempts", "counters"],
)
def test_what_is_no_status_is_refused(day: Day, status: dict[str, Any]) -> None:
    before = day.train()
    written = day.job()["metadata"]["resourceVersion"]
    with pytest.raises(ApiError, match="422"):
        edit(day, status)
    assert day.job()["metadata"]["resourceVersion"] == written
    assert day.training() == before


def test_a_status_that_cannot_be_read_is_written_anew(day: Day) -> None:
    before = day.train()
    lax = definition()
    schema(lax)["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    replace_definition(day.cluster, lax)
    try:
        unreadable = {"phase": 7, "attempts": "none", "counters": [], "conditions": {"a": "b"}}
        day.wait(lambda: edited(day, unreadable))
        day.wait(day.reports)
        assert day.settles()
        assert day.training() == before
    finally:
        replace_definition(day.cluster, definition())


def edited(day: Day, status: dict[str, Any]) -> bool:
    """Edit the status, unless the API server still goes by the old definition."""
    try:
        edit(day, status)
    except ApiError:
        return False
    return True


def edit(day: Day, status: dict[str, Any]) -> None:
    """`kubectl patch --subresource=status`."""
    day.cluster.patch(f"{day.job_path()}/status", {"status": status})


def truths(day: Day) -> dict[str, Any]:
    """What a status says, without the past and when it was said."""
    status = day.status()
    last = (status.get("attempts") or [{}])[-1]
    return {
        "conditions": {each["type"]: each["status"] for each in status.get("conditions", [])},
        "last attempt": [last.get(name) for name in ("number", "ended", "outcome", "final")],
        "step": status.get("progress", {}).get("step"),
        **{name: status.get(name) for name in ("phase", "stage", "counters", "completionTime")},
    }
