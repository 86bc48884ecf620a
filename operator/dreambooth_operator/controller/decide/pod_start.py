"""Pods that do not start: which of it waiting mends, and for how long to wait."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dreambooth_operator.controller.decide.observed import Policy
from dreambooth_operator.controller.kube.snapshots import (
    CONFIG_FAILS,
    IMAGE_PULL_FAILS,
    NEVER_STARTS,
    PodSnapshot,
)


@dataclass(frozen=True)
class Problem:
    """Why a pod does not start."""

    reason: str
    message: str
    patience_seconds: float
    """What is left of the time to mend itself; at most 0: it is over."""


def start_problem(pods: Iterable[PodSnapshot], now: datetime, policy: Policy) -> Problem | None:
    """The worst problem of pods that got a node and do not start."""
    problems = [problem for pod in pods if (problem := _problem(pod, now, policy))]
    return min(problems, key=lambda problem: problem.patience_seconds, default=None)


def _problem(pod: PodSnapshot, now: datetime, policy: Policy) -> Problem | None:
    if pod.waiting in NEVER_STARTS:
        patience = 0.0
    elif pod.waiting in IMAGE_PULL_FAILS:
        patience = policy.image_pull_grace_seconds
    elif pod.waiting in CONFIG_FAILS:
        patience = policy.config_grace_seconds
    else:
        return None
    waited = (now - (pod.waiting_since or now)).total_seconds()
    message = f"pod {pod.name}: {pod.waiting}: {pod.waiting_message}".rstrip(": ")
    return Problem(pod.waiting, message, patience - waited)


def why_not_ready(pods: Iterable[PodSnapshot], nodes: int) -> tuple[str, str]:
    """(reason, message) for people, while not all pods are ready."""
    alive = [pod for pod in pods if not pod.ended]
    for pod in alive:
        if pod.waiting and pod.waiting not in ("ContainerCreating", "PodInitializing"):
            return pod.waiting, f"pod {pod.name}: {pod.waiting_message or pod.waiting}"
    for pod in alive:
        if pod.unschedulable:
            return "Unschedulable", f"pod {pod.name}: {pod.unschedulable}"
    # No counts: a status for each pod that joins would be many writes for little news.
    return "Starting", f"waits for {nodes} {'pod' if nodes == 1 else 'pods'} to join"
