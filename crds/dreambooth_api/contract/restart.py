"""The restart policy: how an attempt ended, and whether and when the next one starts.

One policy for the cluster and for a local run. What differs is only how the ends of pods are
observed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile

from dreambooth_api.contract.exit_codes import EXTERNAL, ExitCode, is_retryable
from dreambooth_api.contract.stages import Outcome
from dreambooth_api.contract.termination import Termination

PREEMPTION_BY_SCHEDULER = "PreemptionByScheduler"
"""Reason of core/v1 DisruptionTarget when the scheduler gives the node to others."""
# Only bounds the shift: the longest back-off allowed, a day, is 17 doublings of a second.
MAX_DOUBLINGS = 32
# Somebody has to act, and until then each attempt takes GPUs from other jobs. With the default
# back-off, that many attempts take two and a half hours.
MAX_REFUSALS = 20
"""Attempts that may be refused (`is_refusal`) from one checkpoint; the last of them is final."""
# Pods report their checkpoints themselves, so "a newer one" may be made up.
MAX_TOTAL_REFUSALS = 200
"""Attempts that may be refused from any checkpoint of a job; the last of them is final."""


@dataclass(frozen=True)
class PodEnd:
    """How one pod ended, as its containers (core/v1 ContainerStatus) or its process show.

    Also how it was about to end when its peers did.
    """

    index: int
    """Completion index: the node rank."""
    exit_code: int | None = None
    """Of the trainer's container; 128 + n when signal n killed it. None: it has none."""
    termination: Termination = field(default_factory=Termination)
    node: str | None = None
    disruption: str | None = None
    """Reason of the DisruptionTarget condition, for example EvictionByEvictionAPI."""
    stop_requested: bool = False
    """It was asked to stop while the attempt was meant to go on, and so ended the attempt."""


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended, and the pod that ended it (status.attempts[] of the job)."""

    outcome: Outcome
    pod: PodEnd | None = None
    final: bool = False
    """No restart can help."""


def classify(ends: Iterable[PodEnd], *, has_checkpoint: bool = False) -> AttemptEnd | None:
    """How an attempt ended, from its pods in the order in which they ended.

    A pod that knows why it ended outweighs its peers, which only lost a connection: first an
    exit code that is not retryable, then a disruption, then a stall. Otherwise the first pod that
    failed counts.

    Args:
        ends: Of the pods.
        has_checkpoint: Whether the job can resume from a checkpoint of an earlier attempt; those of
            this attempt are in the termination messages. What is refused then is a disruption.

    Returns:
        The end of the attempt; None when no pod shows why it ended.
    """
    pods = list(ends)
    # `all` of no pods is true, but pods that nobody has seen have not succeeded.
    if pods and all(pod.exit_code == ExitCode.DONE for pod in pods):
        return AttemptEnd("Succeeded")
    has_checkpoint |= any(pod.termination.checkpoint for pod in pods)
    ends_of_pods = [end for pod in pods if (end := _classify_pod(pod, has_checkpoint))]
    return min(ends_of_pods, key=lambda end: end[0])[1] if ends_of_pods else None


def _classify_pod(pod: PodEnd, has_checkpoint: bool) -> tuple[int, AttemptEnd] | None:
    """How the attempt ended if this pod ended it, after the precedence of that (lowest first)."""
    if pod.exit_code and not is_retryable(pod.exit_code, has_checkpoint=has_checkpoint):
        return 0, AttemptEnd("Failed", pod, final=True)
    if pod.exit_code in EXTERNAL:
        return 0, AttemptEnd("Disrupted", pod)
    if pod.disruption:
        preempted = pod.disruption == PREEMPTION_BY_SCHEDULER
        return 1, AttemptEnd("Preempted" if preempted else "Disrupted", pod)
    if pod.exit_code == ExitCode.STALLED:
        return 2, AttemptEnd("Stalled", pod)
    if pod.stop_requested:
        return 3, AttemptEnd("Disrupted", pod)
    if not pod.exit_code:
        return None
    if pod.exit_code == ExitCode.STOPPED:  # mostly because a peer failed
        return 5, AttemptEnd("Disrupted", pod)
    return 4, AttemptEnd("Failed", pod)


def is_refusal(outcome: Outcome | None, exit_code: int | None) -> bool:
    """Whether an attempt of a job with a checkpoint was refused: it ended with an `EXTERNAL` code.

    It is not the job's failure, and uses up no budget, but is not retried without limit either.
    """
    return outcome == "Disrupted" and exit_code in EXTERNAL


def outcome_for_backoff(outcome: Outcome | None, exit_code: int | None) -> Outcome | None:
    """The outcome that counts for the wait before the next attempt.

    What an attempt was refused for seldom passes within seconds: the wait grows as after failures.
    """
    return "Failed" if is_refusal(outcome, exit_code) else outcome


@dataclass(frozen=True)
class EndedAttempt:
    """What the wait before the next attempt depends on."""

    outcome: Outcome | None
    """That of `outcome_for_backoff`."""
    checkpoint_step: int | None = None
    """Step of the job's newest checkpoint when the attempt ended; None: it had none."""


@dataclass(frozen=True)
class RestartPolicy:
    """The restart policy (spec.runtime.restart). Times are in seconds."""

    max_failures: int
    backoff_seconds: int
    max_backoff_seconds: int

    def is_exhausted(self, failures: int, stalls: int) -> bool:
        """Whether no more attempts may follow (spec.runtime.restart.maxFailures).

        Only failures and stalls use up the budget: disruptions are not the job's fault. Refusals
        have a limit of their own (`MAX_REFUSALS`).
        """
        return failures + stalls > self.max_failures

    def wait_seconds(self, attempts: Sequence[EndedAttempt]) -> int:
        """Seconds between the end of the newest attempt and the next one.

        The wait doubles with each failure or stall in a row, and with each disruption in a row
        without a newer checkpoint; there is none after a preemption or a suspension.

        Args:
            attempts: All attempts of the job, the newest last; at least one.
        """
        # The user or the queue decides when the job goes on, and neither was caused by the job.
        if attempts[-1].outcome in ("Suspended", "Preempted"):
            return 0
        doublings = min(max(_attempts_in_a_row(attempts) - 1, 0), MAX_DOUBLINGS)
        return min(self.backoff_seconds << doublings, self.max_backoff_seconds)

    def restart_time(self, attempts: Sequence[EndedAttempt], ended: datetime) -> datetime:
        """When the next attempt starts: `wait_seconds` after the newest one ended."""
        return ended + timedelta(seconds=self.wait_seconds(attempts))


def _attempts_in_a_row(attempts: Sequence[EndedAttempt]) -> int:
    """The newest attempts that ended like the last one without progress in between."""
    newest = attempts[-1]
    if newest.outcome == "Disrupted":
        # A pod that exits with 143 by itself, or is deleted by some controller each time, would
        # take GPUs for ever. A preemption in between is no progress, and no disruption either.
        row = takewhile(
            lambda each: each == newest,
            reversed([each for each in attempts if each.outcome != "Preempted"]),
        )
    else:
        row = takewhile(lambda each: each.outcome in ("Failed", "Stalled"), reversed(attempts))
    return len(list(row))
