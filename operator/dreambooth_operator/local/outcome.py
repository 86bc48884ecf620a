"""How an attempt ended, judged from all its pods, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.models.runtime import Restart

Outcome = Literal["Succeeded", "Failed", "Disrupted", "Stalled"]


@dataclass(frozen=True)
class PodEnd:
    """How one pod ended."""

    index: int
    exit_code: int
    """128 + n for a pod killed by signal n."""
    message: str = ""
    """Its termination message."""


@dataclass(frozen=True)
class Verdict:
    """How the attempt ended, and the pod that ended it."""

    outcome: Outcome
    retryable: bool = False
    culprit: PodEnd | None = None


def judge(ends: Sequence[PodEnd]) -> Verdict:
    """The verdict on an attempt, from its pods in the order in which they ended.

    A pod that knows why it ended says more than its peers, who only lost a connection, so a
    non-retryable exit code counts wherever it is, and after it a stall; else the first failure
    does. A pod that was asked to stop, when nobody asked the job, was disrupted.
    """
    failed = [end for end in ends if end.exit_code]
    if not failed:
        return Verdict("Succeeded")
    telling = [end for end in failed if end.exit_code in NOT_RETRYABLE]
    if telling:
        return Verdict("Failed", culprit=telling[0])
    stalled = [end for end in failed if end.exit_code == ExitCode.STALLED]
    if stalled:
        return Verdict("Stalled", retryable=True, culprit=stalled[0])
    first = failed[0]
    outcome: Outcome = "Disrupted" if first.exit_code == ExitCode.STOPPED else "Failed"
    return Verdict(outcome, retryable=True, culprit=first)


def backoff_seconds(policy: Restart, failures: int) -> int:
    """Wait before the next attempt, after `failures` (>= 1) failures in a row."""
    doublings = min(failures - 1, 32)
    return min(policy.backoff_seconds << doublings, policy.max_backoff_seconds)
