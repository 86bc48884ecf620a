"""Time limits: activeDeadlineSeconds, startDeadlineSeconds and terminatingTimeoutSeconds.

And one of the operator's own, on quota that a job holds and cannot use.

Each check also has the job reconciled again when its limit will be reached.
"""

from collections.abc import Sequence

from dreambooth_api.models.status import AttemptStatus
from dreambooth_operator.controller.decide.pod_start import check_refusal, not_ready_reason
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot

# Longer than an autoscaler takes to add nodes.
IDLE_QUOTA_SECONDS = 1800
"""How long a job may hold a queue's quota while pods of it have no node."""


def active_deadline_exceeded(builder: DecisionBuilder, record: AttemptStatus) -> str | None:
    """Check spec.runtime.activeDeadlineSeconds of a job that runs.

    The limit is on the time with all ranks joined, over all attempts: time in a queue and time to
    start do not count.

    Returns:
        Why the job must end; None while it may go on.
    """
    limit = builder.runtime.active_deadline_seconds
    if not limit or record.running is None:
        return None
    # Attempts that have ended are in status.runSeconds, the one that runs is not.
    ran = builder.status.run_seconds + (builder.now - record.running).total_seconds()
    if ran < limit:
        builder.requeue_after(limit - ran)
        return None
    return f"the job ran for spec.runtime.activeDeadlineSeconds ({limit} s); raise it in a new job"


def start_deadline_exceeded(
    builder: DecisionBuilder, job: JobSnapshot, pods: Sequence[PodSnapshot], nodes: int
) -> str | None:
    """Check spec.runtime.startDeadlineSeconds of a Job until `nodes` of its pods run.

    The limit counts from the Job's creation, or from when its queue last resumed it: waiting in a
    queue does not count.

    Returns:
        Why the Job must end; None while it may go on.
    """
    limit = builder.runtime.start_deadline_seconds
    if not limit or sum(pod.running for pod in pods) >= nodes:
        return None
    waited = (builder.now - job.active_since).total_seconds()
    if waited < limit:
        builder.requeue_after(limit - waited)
        return None
    _, message = not_ready_reason(pods, nodes, check_refusal(builder, job))
    return f"not started within spec.runtime.startDeadlineSeconds ({limit} s): {message}"


def idle_quota_exceeded(
    builder: DecisionBuilder, job: JobSnapshot, pods: Sequence[PodSnapshot], nodes: int
) -> str | None:
    """Check whether an admitted Job holds its queue's quota for pods that get no nodes.

    The limit is `IDLE_QUOTA_SECONDS`; jobs with spec.runtime.startDeadlineSeconds have their own.

    Returns:
        Why the attempt must end, so that other jobs get the quota; None while it may go on.
    """
    is_placed = sum(pod.node is not None for pod in pods) >= nodes
    if not job.queue or builder.runtime.start_deadline_seconds or is_placed:
        return None
    waited = (builder.now - job.active_since).total_seconds()
    if waited < IDLE_QUOTA_SECONDS:
        builder.requeue_after(IDLE_QUOTA_SECONDS - waited)
        return None
    _, message = not_ready_reason(pods, nodes, check_refusal(builder, job))
    return (
        f"gave its quota back to the queue, as not all pods had a node within"
        f" {IDLE_QUOTA_SECONDS} s: {message}"
    )


def is_lost(builder: DecisionBuilder, pod: PodSnapshot) -> bool:
    """Whether a pod has exceeded spec.runtime.terminatingTimeoutSeconds.

    The limit counts from the request to delete it, not from the end of its grace period.

    A pod on an unreachable node stays Terminating until the node is back or deleted.
    """
    if pod.deletion_requested is None or pod.released:
        return False
    limit = builder.runtime.terminating_timeout_seconds
    # By the clock of the API server, as is `builder.now`: a lost node's clock is of no use.
    left = limit - (builder.now - pod.deletion_requested).total_seconds()
    if left > 0:
        builder.requeue_after(left)
    return left <= 0
