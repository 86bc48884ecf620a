"""Pods that do not start: the reason to show, and when to give up.

Some reasons never go away; others are retried by the kubelet for a while, as a registry may be down
or a Secret about to be created.
"""

from collections.abc import Iterable

from dreambooth_api.contract.conditions import Reason
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import (
    IMAGE_PULL_FAILS,
    NEVER_STARTS,
    STARTING,
    PodSnapshot,
)

# The first refusal is shown within 10 s; the Job controller tries again once a minute at least.
MIN_CHECK_SECONDS = 3.0
MAX_CHECK_SECONDS = 30.0


def start_failure(builder: DecisionBuilder, pods: Iterable[PodSnapshot]) -> str | None:
    """Check pods that have a node and a container that waits (core/v1 ContainerStateWaiting).

    Returns:
        Why a pod will not start; None while all of them still may.
    """
    failing = [pod for pod in pods if not pod.ended and pod.cannot_start]
    if not failing:
        return None
    # Of several pods, the one whose time is up first decides, and gives the reason.
    left, pod = min(((_grace_left(builder, pod), pod) for pod in failing), key=lambda each: each[0])
    if left > 0:
        builder.requeue_after(left)
        return None
    return f"pod {pod.name}: {pod.waiting}: {pod.waiting_message}".rstrip(": ")


def _grace_left(builder: DecisionBuilder, pod: PodSnapshot) -> float:
    """Seconds for which the kubelet may still retry."""
    if pod.waiting in NEVER_STARTS:
        return 0
    policy = builder.policy
    grace = (
        policy.image_pull_grace_seconds
        if pod.waiting in IMAGE_PULL_FAILS
        else policy.config_grace_seconds
    )
    return grace - (builder.now - (pod.waiting_since or builder.now)).total_seconds()


def check_refusal(builder: DecisionBuilder, job: JobSnapshot) -> str:
    """Why the API server refuses pods of a Job that lacks some; empty if it does not, or not yet.

    No watch reports a refusal, so the job is reconciled again until it has all its pods.
    """
    if builder.observed.job_without_pods != job:
        return ""
    age = (builder.now - job.active_since).total_seconds()
    builder.requeue_after(min(max(age / 3, MIN_CHECK_SECONDS), MAX_CHECK_SECONDS))
    return builder.observed.refusal


def not_ready_reason(pods: Iterable[PodSnapshot], nodes: int, refusal: str = "") -> tuple[str, str]:
    """Reason and message of the condition while not all of `nodes` pods are ready.

    The reason is that of a container (core/v1 ContainerStateWaiting), or a `Reason`. `refusal` is
    why the API server refuses to create the missing pods.
    """
    alive = [pod for pod in pods if not pod.ended]
    for pod in alive:
        if pod.waiting and pod.waiting not in STARTING:
            return pod.waiting, f"pod {pod.name}: {pod.waiting_message or pod.waiting}"
    if refusal:
        return Reason.FAILED_CREATE, f"the API server refuses a pod: {refusal}"
    for pod in alive:
        if pod.unschedulable:
            return Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unschedulable}"
    # Pods that have joined are not counted: each would be another write of the status.
    return Reason.STARTING, f"waiting for {nodes} {'pod' if nodes == 1 else 'pods'} to join"
