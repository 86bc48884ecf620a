"""The restart policy: how an attempt ended, and when the next one starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_api.contract.exit_codes import EXTERNAL, HOPELESS, NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.restart import (
    PREEMPTION_BY_SCHEDULER,
    EndedAttempt,
    PodEnd,
    RestartPolicy,
    classify,
    outcome_for_backoff,
)
from dreambooth_api.contract.termination import Termination

DONE, FAILED, BAD_DATA, STALLED, STOPPED = (
    PodEnd(0, exit_code=0),
    PodEnd(1, exit_code=1),
    PodEnd(2, exit_code=65),
    PodEnd(3, exit_code=70),
    PodEnd(4, exit_code=143),
)
EVICTED = PodEnd(5, exit_code=143, disruption="EvictionByEvictionAPI")
PREEMPTED = PodEnd(6, disruption=PREEMPTION_BY_SCHEDULER)
DELETED = PodEnd(7, exit_code=143, stop_requested=True)
RUNNING = PodEnd(8)


@pytest.mark.parametrize(
    ("ends", "outcome", "pod"),
    [
        ([DONE, DONE], "Succeeded", None),
        ([FAILED, STOPPED], "Failed", FAILED),
        ([STOPPED, FAILED], "Failed", FAILED),  # it was stopped because its peer failed
        ([FAILED, PodEnd(9, exit_code=137)], "Failed", FAILED),
        ([STOPPED, DONE], "Disrupted", STOPPED),
        ([FAILED, STALLED], "Stalled", STALLED),
        ([FAILED, DELETED], "Disrupted", DELETED),
        ([STALLED, EVICTED], "Disrupted", EVICTED),
        ([FAILED, PREEMPTED], "Preempted", PREEMPTED),
        ([EVICTED, PREEMPTED], "Disrupted", EVICTED),
        ([EVICTED, STALLED, BAD_DATA], "Failed", BAD_DATA),
        ([DONE, RUNNING, FAILED], "Failed", FAILED),
    ],
)
def test_pod_that_knows_more_counts_before_the_first(
    ends: list[PodEnd], outcome: str, pod: PodEnd | None
) -> None:
    end = classify(ends)
    assert end is not None
    assert (end.outcome, end.pod) == (outcome, pod)
    assert end.final is (pod is BAD_DATA)


@pytest.mark.parametrize("ends", [[], [RUNNING], [DONE, RUNNING]])
def test_pods_that_tell_nothing(ends: list[PodEnd]) -> None:
    assert classify(ends) is None


@pytest.mark.parametrize("code", NOT_RETRYABLE)
def test_codes_that_are_not_retryable_are_final(code: int) -> None:
    end = classify([FAILED, PodEnd(1, exit_code=code)])
    assert end is not None
    assert end.final


@pytest.mark.parametrize(
    ("code", "outcome", "final"),
    [
        *((code, "Disrupted", False) for code in EXTERNAL),
        (ExitCode.FENCED, "Failed", False),  # a status from a backup has an older attempt's number
        (ExitCode.OUT_OF_MEMORY, "Failed", False),  # the node may have a smaller GPU
        *((code, "Failed", True) for code in HOPELESS),
    ],
)
def test_a_job_with_a_checkpoint_is_not_given_up_for_what_lies_outside_of_it(
    code: int, outcome: str, final: bool
) -> None:
    counted = {ExitCode.FENCED, ExitCode.OUT_OF_MEMORY}
    assert sorted({*EXTERNAL, *counted, *HOPELESS}) == sorted(NOT_RETRYABLE)
    end = classify(
        [FAILED, PodEnd(1, exit_code=code)][code == ExitCode.FENCED :], has_checkpoint=True
    )
    assert end is not None
    assert (end.outcome, end.final) == (outcome, final)


def test_a_checkpoint_of_the_same_attempt_counts() -> None:
    saved = Checkpoint(step=700, uri="s3://b/c", time=datetime(2026, 1, 1, tzinfo=UTC))
    end = classify([PodEnd(0, exit_code=67, termination=Termination(checkpoint=saved))])
    assert end is not None
    assert (end.outcome, end.final) == ("Disrupted", False)


def test_refusals_wait_longer_and_longer() -> None:
    policy = RestartPolicy(3, 10, 600)
    attempts = [EndedAttempt(outcome_for_backoff("Disrupted", 65), step) for step in (1, 2, 3)]
    assert policy.wait_seconds(attempts) == 40
    assert outcome_for_backoff("Disrupted", 143) == "Disrupted"


@pytest.mark.parametrize(
    ("attempts", "seconds"),
    [
        ([("Disrupted", None)], 10),
        ([("Disrupted", None)] * 2, 20),
        ([("Disrupted", 100)] * 3, 40),
        ([("Disrupted", 100)] * 20, 600),
        ([("Disrupted", None), ("Disrupted", 100)], 10),
        ([("Disrupted", 100), ("Disrupted", 200)], 10),
        ([("Disrupted", 100), ("Disrupted", 200), ("Disrupted", 200)], 20),
        ([("Disrupted", 100), ("Preempted", 100), ("Disrupted", 100)], 20),
        ([("Disrupted", 100), ("Preempted", 200), ("Disrupted", 200)], 10),
        ([("Preempted", 100), ("Preempted", 100), ("Disrupted", 100)], 10),
        ([("Disrupted", 100)] * 3 + [("Preempted", 100)], 0),
        ([("Disrupted", 100), ("Suspended", 100), ("Disrupted", 100)], 10),
        ([("Disrupted", 100), ("Failed", 100), ("Disrupted", 100)], 10),
        ([("Failed", 100), ("Failed", 200)], 20),
    ],
)
def test_disruptions_wait_longer_and_longer_until_there_is_a_newer_checkpoint(
    attempts: list, seconds: int
) -> None:
    ended = [EndedAttempt(outcome, step) for outcome, step in attempts]
    assert RestartPolicy(3, 10, 600).wait_seconds(ended) == seconds


@settings(deadline=None)
@given(failures=st.integers(0, 10), stalls=st.integers(0, 10), allowed=st.integers(0, 10))
def test_budget_is_used_up_by_failures_and_stalls(failures: int, stalls: int, allowed: int) -> None:
    policy = RestartPolicy(allowed, 10, 600)
    assert policy.is_exhausted(failures, stalls) is (failures + stalls > allowed)


OUTCOMES = st.sampled_from(["Failed", "Disrupted", "Preempted", "Stalled", "Suspended"])


@settings(deadline=None)
@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=60))
def test_wait_is_bounded_and_starts_at_the_end_of_the_attempt(outcomes: list) -> None:
    policy = RestartPolicy(3, 10, 600)
    attempts = [EndedAttempt(outcome) for outcome in outcomes]
    seconds = policy.wait_seconds(attempts)
    assert seconds == 0 if outcomes[-1] in ("Suspended", "Preempted") else 10 <= seconds <= 600
    ended = datetime(2026, 1, 1, tzinfo=UTC)
    assert policy.restart_time(attempts, ended) == ended + timedelta(seconds=seconds)
