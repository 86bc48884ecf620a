"""The operator's heart: from what is seen of a job to what is to be done about it. Pure."""

from datetime import datetime, timedelta

from pydantic import ValidationError

from dreambooth_api.models.status import Counters, Status
from dreambooth_operator.controller.decide import attempts, conditions, progress
from dreambooth_operator.controller.decide.children import attempt_children
from dreambooth_operator.controller.decide.decision import NOTHING, Decision, DeleteDreamBoothJob
from dreambooth_operator.controller.decide.draft import Draft
from dreambooth_operator.controller.decide.observed import Observed, Obstacle
from dreambooth_operator.controller.decide.open_attempt import WAITING, follow
from dreambooth_operator.controller.decide.policy import Policy
from dreambooth_operator.controller.decide.preflight import follow_preflight
from dreambooth_operator.controller.decide.start_problems import why_not_ready
from dreambooth_operator.controller.kube.snapshots import JobSnapshot
from dreambooth_operator.manifests.names import TRAINER

VALID = "the job can be carried out as written"
OBSTACLE_RETRY_SECONDS = 60
KEPT_JOBS = 3
"""Jobs of the newest attempts stay, with the logs of the pods that failed."""


def decide(seen: Observed, now: datetime, policy: Policy) -> Decision:
    """What to do about a job, `now` by the API server's clock.

    Deciding again after it was carried out decides nothing new. What is recorded in the status and
    what the children show is all it goes by, so an operator may die at any point.
    """
    if seen.deleting:
        return NOTHING
    draft = Draft(seen, now.replace(microsecond=0), policy, _recovered(seen))
    if seen.obstacle:
        _report_obstacle(draft, seen.obstacle)
    else:
        draft.condition(conditions.ACCEPTED, "True", "Valid", _told_of(seen.defaulted))
    record = attempts.newest(draft.status)
    if record and record.ended is None:
        follow(draft, record)
    if not _has_open_attempt(draft) and not seen.obstacle:
        _between_attempts(draft)
    return draft.decision()


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
        status = attempts.up_to(status, job.attempt)
    record = attempts.newest(status)
    if record is None or record.number < job.attempt:
        status = attempts.opened(status, job.attempt, job.created.replace(microsecond=0))
    elif record.ended is not None and job.live and record.number == job.attempt:
        status = attempts.changed(status, ended=None, outcome=None, final=False)
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
        counters = attempts.largest(known, counters)
    elif record.ended is not None:
        counters = attempts.counted(counters, record.outcome)
    most = max(known.preemptions, counters.preemptions)
    counters = counters.model_copy(update={"preemptions": most})
    return status if counters == known else status.model_copy(update={"counters": counters})


def _has_open_attempt(draft: Draft) -> bool:
    record = attempts.newest(draft.status)
    return record is not None and record.ended is None


def _between_attempts(draft: Draft) -> None:
    """No attempt is under way: the job is over, waits, or starts the next one."""
    record = attempts.newest(draft.status)
    if record is not None and record.outcome == "Succeeded":
        _succeed(draft)
    elif record is not None and record.final:
        _fail(draft, record.outcome or "Failed", record.reason)
    elif not _passed_preflight(draft):
        return
    elif draft.job.spec.runtime.suspend:
        draft.phase("Suspended")
    else:
        _start_next(draft)


def _passed_preflight(draft: Draft) -> bool:
    """Whether training may start. An attempt shows that it might; a refusal ends the job."""
    if draft.status.attempts:
        return True
    if conditions.truth(draft.status.conditions, conditions.PREFLIGHT_PASSED) == "Unknown":
        follow_preflight(draft)
    found = conditions.find(draft.status.conditions, conditions.PREFLIGHT_PASSED)
    if found is not None and found.status == "False":
        _fail(draft, found.reason, found.message)
    return found is not None and found.status == "True"


def _start_next(draft: Draft) -> None:
    """Start the next attempt when its time has come, and never two at a time."""
    record = attempts.newest(draft.status)
    number = 0 if record is None else record.number + 1
    if record != attempts.newest(draft.job.status or Status()):
        draft.phase("Restarting")  # how the last one ended is written down first
        return
    running = [job for job in draft.seen.attempts if job.live]
    if running:
        for job in running:
            draft.delete(job)
        return
    if _pods_are_left(draft):
        draft.phase("Restarting" if record else "Pending")
        return
    if record is not None and record.ended is not None:
        seconds = attempts.wait_seconds(draft.status.attempts, draft.job.spec.runtime.restart)
        left = (record.ended + timedelta(seconds=seconds) - draft.now).total_seconds()
        if 0 < left <= seconds:
            draft.phase("Restarting")
            draft.wake(left)
            return
    _start(draft, number)


def _pods_are_left(draft: Draft) -> bool:
    """Whether pods run whose Job is gone: deleted in the background, or with an earlier job of the
    same name. They would be taken for ranks of the next attempt.
    """
    known = {job.uid for job in draft.seen.attempts}
    left = [
        pod
        for pod in draft.seen.pods
        if pod.component == TRAINER and pod.job_uid not in known and not pod.ended
    ]
    left = [pod for pod in left if not draft.is_lost(pod)]
    if left:
        told = f"pod {left[0].name} of an earlier Job still runs; it is waited for"
        draft.condition(conditions.PODS_READY, "False", "PodsLeft", told)
    return bool(left)


def _start(draft: Draft, number: int) -> None:
    counters = draft.status.counters or Counters()
    nodes = attempts.bad_nodes(draft.status.attempts)
    draft.apply(
        attempt_children(
            draft.job, number, draft.policy.default_image, counters=counters, bad_nodes=nodes
        )
    )
    for job in draft.seen.attempts:
        if job.attempt is not None and job.attempt <= number - KEPT_JOBS:
            draft.delete(job)
    draft.status = attempts.opened(draft.status, number, draft.now)
    if draft.job.spec.runtime.queue:
        draft.drop_conditions(conditions.PODS_READY)
        draft.condition(conditions.QUEUED, "True", *WAITING)
        draft.phase("Queued")
    else:
        why = why_not_ready([], draft.job.spec.runtime.nodes)
        draft.condition(conditions.PODS_READY, "False", *why)
        draft.phase("Starting")


def _succeed(draft: Draft) -> None:
    draft.status = progress.finished(draft.status, draft.job)
    draft.condition(conditions.COMPLETE, "True", "Trained", "the model was trained and exported")
    draft.phase("Succeeded")
    _end(draft)


def _fail(draft: Draft, reason: str, message: str) -> None:
    draft.condition(conditions.FAILED, "True", reason, message)
    draft.phase("Failed")
    _end(draft)


def _end(draft: Draft) -> None:
    """The job has ended: it is deleted when its time to live is over."""
    record = attempts.newest(draft.status)
    ended = draft.status.completion_time or (record and record.ended) or draft.now
    draft.status = draft.status.model_copy(update={"completion_time": ended})
    seconds = draft.job.spec.runtime.ttl_seconds_after_finished
    if seconds is None:
        return
    left = (ended + timedelta(seconds=seconds) - draft.now).total_seconds()
    if left > 0:
        draft.wake(left)
    else:
        draft.actions.append(DeleteDreamBoothJob())


def _report_obstacle(draft: Draft, obstacle: Obstacle) -> None:
    """Children cannot be made as things are. An attempt that runs is followed all the same; the
    next one has to wait.
    """
    draft.condition(conditions.ACCEPTED, "False", obstacle.reason, obstacle.message)
    if draft.status.phase is None:
        draft.phase("Pending")
    draft.wake(OBSTACLE_RETRY_SECONDS)
