"""Pods as the operator keeps them.

The full body of a pod takes about 50 kB in memory, its snapshot 1 kB; a thousand jobs have
thousands of pods.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from dreambooth_api.contract.termination import Termination
from dreambooth_operator.controller.kube.objects import (
    Body,
    Key,
    by_type,
    controller_uid,
    is_true,
    label_number,
    required_time,
    time_of,
)
from dreambooth_operator.manifests import names

NO_TERMINATION = Termination()
STARTING = ("ContainerCreating", "PodInitializing")
"""Waiting reasons of every pod that starts."""
MAX_GRACE_SECONDS = 10 * 365 * 86_400
"""The API server takes any; longer ones do not fit into Python's times."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

# Waiting reasons of containers (core/v1 ContainerStateWaiting.reason) that may not go away by
# themselves. A pod changes between the reasons of one set while kubelet retries the same thing.
NEVER_STARTS = frozenset({"InvalidImageName", "ErrImageNeverPull"})
IMAGE_PULL_FAILS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
)
CONFIG_FAILS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)


@dataclass(frozen=True, slots=True)
class PodSnapshot:
    """A pod of an attempt or of the preflight Job (core/v1 Pod)."""

    key: Key
    """The DreamBoothJob that it belongs to."""
    name: str
    uid: str
    version: int
    """metadata.resourceVersion."""
    job_uid: str | None
    """uid of the batch/v1 Job that created it."""
    component: str
    attempt: int | None
    index: int
    """Completion index: the node rank."""
    created: datetime
    phase: str = "Pending"
    node: str | None = None
    scheduled: datetime | None = None
    """When it was assigned its node."""
    ip: str | None = None
    metrics_port: int = DEFAULT_METRICS_PORT
    """Port of the pod's first rank (spec.containers[].ports)."""
    ready: bool = False
    running: bool = False
    """The trainer's container has started, and may have ended."""
    deletion_requested: datetime | None = None
    """When its deletion was requested: metadata.deletionTimestamp less the grace period."""
    finished: datetime | None = None
    exit_code: int | None = None
    termination: Termination = NO_TERMINATION
    """Termination message of the trainer's container."""
    reason: str = ""
    """status.reason: why the pod failed apart from its container, for example Evicted."""
    reason_message: str = ""
    out_of_memory: bool = False
    waiting: str | None = None
    """Why the container has not started yet, for example ImagePullBackOff."""
    waiting_message: str = ""
    waiting_since: datetime | None = None
    """Since when it cannot start, as the operator observed it: no field of a pod holds that."""
    disruption: str | None = None
    """Reason of the DisruptionTarget condition, for example EvictionByEvictionAPI."""
    disruption_message: str = ""
    unschedulable: str | None = None
    """The scheduler's message if no node fits."""
    gone: bool = False
    """The object was deleted; this is its last state."""

    @property
    def endpoint(self) -> str | None:
        """Host and port of its first rank, as in a URL; None before it has an address."""
        if self.ip is None:
            return None
        host = f"[{self.ip}]" if ":" in self.ip else self.ip  # IPv6
        return f"{host}:{self.metrics_port}"

    @property
    def ended(self) -> bool:
        """The trainer's container has ended (its exit code is known); a sidecar may still run."""
        return self.released or self.exit_code is not None

    @property
    def released(self) -> bool:
        """All its containers have ended (status.phase), or the object was deleted.

        Its node's resources are free again.
        """
        return self.gone or self.phase in ("Succeeded", "Failed")

    @property
    def cannot_start(self) -> bool:
        """Its container waits, maybe for ever (core/v1 ContainerStateWaiting, reason)."""
        return self.waiting in NEVER_STARTS | IMAGE_PULL_FAILS | CONFIG_FAILS

    @property
    def failed(self) -> bool:
        """It has failed (status.phase), whether or not its container ran."""
        # With sidecars the phase changes only after they have ended, too.
        return self.phase == "Failed" or bool(self.exit_code)


def pod_snapshot(body: Body) -> PodSnapshot | None:
    """The snapshot of a pod (core/v1 Pod); None for one without the operator's labels."""
    meta, status = body["metadata"], body.get("status", {})
    labels = meta.get("labels", {})
    if names.JOB_LABEL not in labels:
        return None
    conditions = by_type(status.get("conditions", []))
    state = _trainer_state(status)
    ended = state.get("terminated") or {}
    waiting = _init_waiting(status, state) or state.get("waiting") or {}
    disruption = conditions.get("DisruptionTarget", {})
    scheduled = conditions.get("PodScheduled", {})
    init_failure = _init_failure(status, state)
    # The API server sets deletionTimestamp to the end of the grace period, in the future.
    grace = timedelta(seconds=min(meta.get("deletionGracePeriodSeconds") or 0, MAX_GRACE_SECONDS))
    deletion = time_of(meta.get("deletionTimestamp"))
    return PodSnapshot(
        key=Key(meta["namespace"], str(labels[names.JOB_LABEL])),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        job_uid=controller_uid(meta),
        component=labels.get(names.COMPONENT_LABEL, ""),
        attempt=label_number(labels.get(names.ATTEMPT_LABEL)),
        index=label_number(labels.get(INDEX_LABEL)) or 0,
        created=required_time(meta["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        node=body.get("spec", {}).get("nodeName"),
        scheduled=time_of(scheduled.get("lastTransitionTime")) if is_true(scheduled) else None,
        ip=status.get("podIP"),
        metrics_port=_metrics_port(body.get("spec", {})),
        ready=is_true(conditions.get("Ready")),
        running=bool(state.get("running") or ended),
        deletion_requested=deletion - grace if deletion else None,
        finished=time_of(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        termination=Termination.decode(ended["message"]) if "message" in ended else NO_TERMINATION,
        reason=status.get("reason", "") or ("InitContainerFailed" if init_failure else ""),
        reason_message=status.get("message", "") or init_failure,
        out_of_memory=ended.get("reason") == "OOMKilled",
        waiting=_text(waiting.get("reason")),
        waiting_message=waiting.get("message", ""),
        disruption=disruption.get("reason") if is_true(disruption) else None,
        disruption_message=disruption.get("message", ""),
        unschedulable=scheduled.get("message") if scheduled.get("status") == "False" else None,
    )


def _metrics_port(spec: Body) -> int:
    """The port that the trainer's container names for its metrics."""
    for container in spec.get("containers", []):
        if container["name"] == names.TRAINER:
            for port in container.get("ports", []):
                if port.get("name") == names.METRICS_PORT:
                    return int(port["containerPort"])
    return DEFAULT_METRICS_PORT


def _trainer_state(status: Body) -> Body:
    """State of the trainer's container."""
    containers: Iterable[Body] = status.get("containerStatuses", [])
    return next((c.get("state", {}) for c in containers if c["name"] == names.TRAINER), {})


def _init_waiting(status: Body, trainer: Body) -> Body | None:
    """The waiting state of an init container that keeps the trainer's from starting."""
    if trainer.get("running") or trainer.get("terminated"):
        return None
    waiting = [c.get("state", {}).get("waiting") or {} for c in _init_statuses(status)]
    return next((each for each in waiting if each.get("reason") not in (None, *STARTING)), None)


def _init_failure(status: Body, trainer: Body) -> str:
    """How an init container failed, and with it the pod, before the trainer's started."""
    if status.get("phase") != "Failed" or trainer.get("terminated"):
        return ""
    for container in _init_statuses(status):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("exitCode"):
            message = (
                f"{container['name']}: exit code {ended['exitCode']}: {ended.get('message', '')}"
            )
            return message.rstrip(": ")
    return ""


def _init_statuses(status: Body) -> Iterable[Body]:
    statuses: Iterable[Body] = status.get("initContainerStatuses", [])
    return statuses


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
