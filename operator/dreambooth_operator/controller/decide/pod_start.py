"""Pods that do not start: the reason to show, and when to give up.

Some reasons never go away; others are retried by the kubelet for a while, as a registry may be down
or a Secret about to be created.
"""

import re
from collections.abc import Iterable

from dreambooth_api.contract.conditions import Reason
from dreambooth_api.models import base
from dreambooth_operator.controller.decide.builder import DecisionBuilder
from dreambooth_operator.controller.kube.snapshots import (
    IMAGE_PULL_FAILS,
    NEVER_STARTS,
    STARTING,
    PodSnapshot,
)

MAX_REASON = 1024
CONDITION_REASON = re.compile(base.CONDITION_REASON)


def start_failure(builder: DecisionBuilder, pods: Iterable[PodSnapshot]) -> str | None:
    """Check pods that have a node and a container that waits (core/v1 ContainerStateWaiting).

    Returns:
        Why a pod will not start; None while all of them still may.
    """
    failing = [pod for pod in pods if not pod.ended and pod.cannot_start]
    if not failing:
        return None
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


def not_ready_reason(pods: Iterable[PodSnapshot], nodes: int) -> tuple[str, str]:
    """Reason and message of the condition while not all of `nodes` pods are ready.

    The reason is that of a container (core/v1 ContainerStateWaiting), or a `Reason`.
    """
    alive = [pod for pod in pods if not pod.ended]
    for pod in alive:
        if pod.waiting and pod.waiting not in STARTING:
            # A container runtime may say anything; a condition's reason has a form.
            valid = len(pod.waiting) <= MAX_REASON and CONDITION_REASON.fullmatch(pod.waiting)
            reason = pod.waiting if valid else Reason.STARTING
            return reason, f"pod {pod.name}: {pod.waiting_message or pod.waiting}"
    for pod in alive:
        if pod.unschedulable:
            return Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unschedulable}"
    # Pods that have joined are not counted: each would be another write of the status.
    return Reason.STARTING, f"waiting for {nodes} {'pod' if nodes == 1 else 'pods'} to join"
