"""Sidecars that run on when the trainer has ended: an injected proxy, for example.

What counts is the end of the trainer's container. The kubelet stops sidecars that are declared as
such (init containers with `restartPolicy: Always`); any other container keeps its pod Running.
"""

from collections.abc import Iterable

from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot

SIDECAR_SECONDS = 30
"""Time for a pod to end by itself once its trainer has."""


def sidecars_outlive(builder: DecisionBuilder, pods: Iterable[PodSnapshot]) -> bool:
    """Whether a pod has gone on for `SIDECAR_SECONDS` after its trainer ended."""
    waits = [
        SIDECAR_SECONDS - (builder.now - (pod.finished or builder.now)).total_seconds()
        for pod in pods
        if pod.exit_code is not None and not pod.released and pod.deletion_requested is None
    ]
    if not waits:
        return False
    if min(waits) > 0:
        builder.requeue_after(min(waits))
    return min(waits) <= 0
