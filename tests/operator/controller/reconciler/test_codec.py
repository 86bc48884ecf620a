"""Statuses are written in the API's form, and a refusal touches nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_api.parsing.load import InvalidJobError
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB
from dreambooth_operator.controller.reconciler.codec import (
    decode_job,
    encode_invalid_spec,
    encode_status,
)
from dreambooth_operator.controller.watch.snapshots import DreamBoothJobSnapshot, snapshot_of
from tests.operator.controller.parts import job_body

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def _record(status: Any = None, **spec: Any) -> DreamBoothJobSnapshot:
    body = job_body("team", "mug", **spec)
    body["metadata"] |= {"uid": "u", "resourceVersion": "5", "generation": 3}
    body["metadata"]["creationTimestamp"] = "2026-03-01T12:00:00Z"
    record = snapshot_of(DREAMBOOTH_JOB, body | {"status": status})
    assert isinstance(record, DreamBoothJobSnapshot)
    return record


def test_times_are_utc_to_the_second() -> None:
    local = timezone(timedelta(hours=2))
    started = datetime(2026, 3, 1, 14, 0, 0, 999999, tzinfo=local)
    body = encode_status(Status(attempts=[AttemptStatus(number=0, started=started)]))
    assert body["attempts"][0]["started"] == "2026-03-01T12:00:00Z"


def test_what_is_unknown_is_left_out() -> None:
    assert "phase" not in encode_status(Status())


@pytest.mark.parametrize("status", [{"phase": "Dancing"}, {"attempts": "many"}, {"counters": []}])
def test_invalid_status_counts_as_empty(status: Any) -> None:
    assert decode_job(_record(status)).status is None


def test_spec_that_is_not_understood_is_refused() -> None:
    with pytest.raises(InvalidJobError, match=r"spec\.inventedLater"):
        decode_job(_record(inventedLater=True))


def test_a_rule_that_came_later_stops_no_job_that_was_accepted() -> None:
    broken = {"prior": {"prompts": ["a {classNoun}"]}}
    accepted = {"type": "Accepted", "status": "True", "reason": "Valid", "message": ""}
    since = {"lastTransitionTime": "2026-03-01T12:00:00Z", "observedGeneration": 3}
    for status in ({"conditions": [accepted | since]}, {"conditions": [accepted], "phase": "Odd"}):
        assert decode_job(_record(status, **broken)).spec.prior.prompts == ["a {classNoun}"]
    for status in (None, {"conditions": [accepted | {"status": "False"}]}, {"conditions": "odd"}):
        with pytest.raises(InvalidJobError, match=r"spec\.prior\.prompts"):
            decode_job(_record(status, **broken))


def test_refusal_says_why_and_leaves_the_rest() -> None:
    ready = {"type": "PodsReady", "status": "True"}
    status = encode_invalid_spec(_record({"phase": "Running", "conditions": [ready]}), "why", NOW)
    assert status is not None
    assert status["phase"] == "Running"
    assert status["conditions"][0] == ready
    assert status["conditions"][1] == {
        "type": "Accepted",
        "status": "False",
        "reason": "InvalidSpec",
        "message": "why",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }


def test_refusal_is_written_once() -> None:
    first = encode_invalid_spec(_record(), "why", NOW)
    assert encode_invalid_spec(_record(first), "why", LATER) is None


def test_refusal_for_another_reason_is_no_transition() -> None:
    first = encode_invalid_spec(_record(), "why", NOW)
    second = encode_invalid_spec(_record(first), "why else", LATER)
    assert second is not None
    assert second["conditions"][0]["message"] == "why else"
    assert second["conditions"][0]["lastTransitionTime"] == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize("status", ["nonsense", {"conditions": "none"}, {"conditions": [1]}])
def test_refusal_copes_with_any_status(status: Any) -> None:
    refused = encode_invalid_spec(_record(status), "why", NOW)
    assert refused is not None
    assert len(refused["conditions"]) == 1
