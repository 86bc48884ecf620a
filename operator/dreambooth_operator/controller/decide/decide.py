"""The operator's heart: from what is seen of a job to what is to be done about it. Pure."""

from datetime import datetime, timedelta

from pydantic import ValidationError

from dreambooth_api.models.status import Counters, Status
from dreambooth_operator.controller.decide import conditions, history, progress
from dreambooth_operator.controller.decide.attempt import WAITING, follow
from dreambooth_operator.controller.decide.builder import DecisionBuilder
from dreambooth_operator.controller.decide.children import attempt_children
from dreambooth_operator.controller.decide.decision import NOTHING, Decision, DeleteDreamBoothJob
from dreambooth_operator.controller.decide.observed import Blocked, Observed, Policy
from dreambooth_operator.controller.decide.pod_start import why_not_ready
from dreambooth_operator.controller.decide.preflight import follow_preflight
from dreambooth_operator.controller.kube.snapshots import JobSnapshot
from dreambooth_operator.manifests.names import TRAINER

VALID = "the job can be carried out as written"
BLOCKED_RETRY_SECONDS = 60
KEPT_JOBS = 3
"""Jobs of the newest attempts stay, with the logs of the pods that failed."""


def decide(seen: Observed, now: datetime, policy: Policy) -> Decision:
    """What to do about a job, `now` by the API server's clock.

    Deciding again after it was carried out decides nothing new. What is recorded in the status and
    what the children show is all it goes by, so an operator may die at any point.
    """
    if seen.deleting:
        return NOTHING
    builder = DecisionBuilder(seen, now.replace(microsecond=0), policy, _recovered(seen))
    if seen.blocked:
        _report_blocked(builder, seen.blocked)
    else:
        builder.condition(conditions.ACCEPTED, "True", "Valid", _told_of(seen.defaulted))
    record = history.newest(builder.status)
    if record and record.ended is None:
        follow(builder, record)
    if not _has_open_attempt(builder) and not seen.blocked:
        _between_attempts(builder)
    return builder.decision()


def _told_of(defaulted: tuple[str, ...]) -> str:
    """Who reads of a Secret or a queue that he never named must be able to see where it is from."""
    return f"{VALID}; {', '.join(defaulted)}: from the operator's defaults" if defaulted else VALID


def _recovered(seen: Observed) -> Status:
    """The status as it was written, corrected by what the children show.

    An attempt's Job is made before its record is written; and a status can be edited by hand.
    """
    status = seen.job.status or Status()
    job = max(seen.attempts, key=lambda job: job.attempt or 0, default=None)
    if job is None or job.attempt is None:
        return status
    if job.live:  # no other is started before it has ended
        status = history.up_to(status, job.attempt)
    record = history.newest(status)
    if record is None or record.number < job.attempt:
        status = history.opened(status, job.attempt, job.created.replace(microsecond=0))
    elif record.ended is not None and job.live and record.number == job.attempt:
        status = history.changed(status, ended=None, outcome=None, final=False)
    return _recounted(status, job)


def _recounted(status: Status, job: JobSnapshot) -> Status:
    """The status with the counters of the newest Job, and what has been counted since it began.

    Only preemptions are counted while an attempt goes on.
    """
    try:
        counters = Counters.model_validate_json(job.counters)
    except ValidationError:
        return status
    known, record = status.counters or Counters(), status.attempts[-1]
    if record.number != job.attempt:
        counters = history.largest(known, counters)
    elif record.ended is not None:
        counters = history.counted(counters, record.outcome)
    most = max(known.preemptions, counters.preemptions)
    counters = counters.model_copy(update={"preemptions": most})
    return status if counters == known else status.model_copy(update={"counters": counters})


def _has_open_attempt(builder: DecisionBuilder) -> bool:
    record = history.newest(builder.status)
    return record is not None and record.ended is None


def _between_attempts(builder: DecisionBuilder) -> None:
    """No attempt is under way: the job is over, waits, or starts the next one."""
    record = history.newest(builder.status)
    if record is not None and record.outcome == "Succeeded":
        _succeed(builder)
    elif record is not None and record.final:
        _fail(builder, record.outcome or "Failed", record.reason)
    elif not _passed_preflight(builder):
        return
    elif builder.job.spec.suspend:
        builder.phase("Suspended")
    else:
        _start_next(builder)


def _passed_preflight(builder: DecisionBuilder) -> bool:
    """Whether training may start. An attempt shows that it might; a refusal ends the job."""
    if builder.status.attempts:
        return True
    if conditions.truth(builder.status.conditions, conditions.PREFLIGHT_PASSED) == "Unknown":
        follow_preflight(builder)
    found = conditions.find(builder.status.conditions, conditions.PREFLIGHT_PASSED)
    if found is not None and found.status == "False":
        _fail(builder, found.reason, found.message)
    return found is not None and found.status == "True"


def _start_next(builder: DecisionBuilder) -> None:
    """Start the next attempt when its time has come, and never two at a time."""
    record = history.newest(builder.status)
    number = 0 if record is None else record.number + 1
    if record != history.newest(builder.job.status or Status()):
        builder.phase("Restarting")  # how the last one ended is written down first
        return
    running = [job for job in builder.seen.attempts if job.live]
    if running:
        for job in running:
            builder.delete(job)
        return
    if _pods_are_left(builder):
        builder.phase("Restarting" if record else "Pending")
        return
    if record is not None and record.ended is not None:
        seconds = history.wait_seconds(builder.status.attempts, builder.job.spec.runtime.restart)
        left = (record.ended + timedelta(seconds=seconds) - builder.now).total_seconds()
        if 0 < left <= seconds:
            builder.phase("Restarting")
            builder.wake(left)
            return
    _start(builder, number)


def _pods_are_left(builder: DecisionBuilder) -> bool:
    """Whether pods run whose Job is gone: deleted in the background, or with an earlier job of the
    same name. They would be taken for ranks of the next attempt.
    """
    known = {job.uid for job in builder.seen.attempts}
    left = [
        pod
        for pod in builder.seen.pods
        if pod.component == TRAINER and pod.job_uid not in known and not pod.ended
    ]
    left = [pod for pod in left if not builder.is_lost(pod)]
    if left:
        told = f"pod {left[0].name} of an earlier Job still runs; it is waited for"
        builder.condition(conditions.PODS_READY, "False", "PodsLeft", told)
    return bool(left)


def _start(builder: DecisionBuilder, number: int) -> None:
    counters = builder.status.counters or Counters()
    nodes = history.bad_nodes(builder.status.attempts)
    builder.apply(
        attempt_children(
            builder.job, number, builder.policy.default_image, counters=counters, bad_nodes=nodes
        )
    )
    for job in builder.seen.attempts:
        if job.attempt is not None and job.attempt <= number - KEPT_JOBS:
            builder.delete(job)
    builder.status = history.opened(builder.status, number, builder.now)
    if builder.job.spec.runtime.queue:
        builder.drop_conditions(conditions.PODS_READY)
        builder.condition(conditions.QUEUED, "True", *WAITING)
        builder.phase("Queued")
    else:
        why = why_not_ready([], builder.job.spec.runtime.nodes)
        builder.condition(conditions.PODS_READY, "False", *why)
        builder.phase("Starting")


def _succeed(builder: DecisionBuilder) -> None:
    builder.status = progress.finished(builder.status, builder.job)
    builder.condition(conditions.COMPLETE, "True", "Trained", "the model was trained and exported")
    builder.phase("Succeeded")
    _end(builder)


def _fail(builder: DecisionBuilder, reason: str, message: str) -> None:
    builder.condition(conditions.FAILED, "True", reason, message)
    builder.phase("Failed")
    _end(builder)


def _end(builder: DecisionBuilder) -> None:
    """The job has ended: it is deleted when its time to live is over."""
    record = history.newest(builder.status)
    ended = builder.status.completion_time or (record and record.ended) or builder.now
    builder.status = builder.status.model_copy(update={"completion_time": ended})
    seconds = builder.job.spec.runtime.ttl_seconds_after_finished
    if seconds is None:
        return
    left = (ended + timedelta(seconds=seconds) - builder.now).total_seconds()
    if left > 0:
        builder.wake(left)
    else:
        builder.actions.append(DeleteDreamBoothJob())


def _report_blocked(builder: DecisionBuilder, blocked: Blocked) -> None:
    """Children cannot be made as things are. An attempt that runs is followed all the same; the
    next one has to wait.
    """
    builder.condition(conditions.ACCEPTED, "False", blocked.reason, blocked.message)
    if builder.status.phase is None:
        builder.phase("Pending")
    builder.wake(BLOCKED_RETRY_SECONDS)
