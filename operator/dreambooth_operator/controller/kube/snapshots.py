"""Small typed snapshots of the Kubernetes objects that the operator watches.

The full body of a pod takes about 50 kB in memory, its snapshot 1 kB; a thousand jobs have
thousands of pods.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.base import KIND
from dreambooth_operator.manifests import names

Body = Mapping[str, Any]
"""An object as the API server sends it."""

NO_TERMINATION = Termination()
COUNTERS_ANNOTATION = f"{names.ATTEMPT_LABEL}-counters"
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
class Key:
    """A DreamBoothJob's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PodSnapshot:
    """A pod of an attempt or of the preflight Job."""

    key: Key
    """The DreamBoothJob that it belongs to."""
    name: str
    uid: str
    version: int
    """metadata.resourceVersion."""
    job_uid: str | None
    """The batch/v1 Job that made it."""
    component: str
    attempt: int | None
    index: int
    """Completion index: the node rank."""
    created: datetime
    phase: str = "Pending"
    node: str | None = None
    scheduled: datetime | None = None
    """When it got its node."""
    ip: str | None = None
    ready: bool = False
    running: bool = False
    """The trainer's container has started, and maybe ended."""
    stop_asked: datetime | None = None
    """When its deletion was asked for; metadata.deletionTimestamp is that plus the grace period."""
    finished: datetime | None = None
    exit_code: int | None = None
    termination: Termination = NO_TERMINATION
    """Termination message of the trainer's container."""
    reason: str = ""
    """Why the pod failed beside its container, for example Evicted (status.reason)."""
    reason_message: str = ""
    out_of_memory: bool = False
    waiting: str | None = None
    """Why the container does not start yet, for example ImagePullBackOff."""
    waiting_message: str = ""
    waiting_since: datetime | None = None
    """When it was first seen to wait for the same kind of reason: the API does not tell."""
    disruption: str | None = None
    """Reason of the DisruptionTarget condition, for example EvictionByEvictionAPI."""
    disruption_message: str = ""
    unschedulable: str | None = None
    """The scheduler's message when no node fits."""
    gone: bool = False
    """The object has been deleted; this is the last that was seen of it."""

    @property
    def ended(self) -> bool:
        """Its container has ended, or the pod is gone."""
        return self.gone or self.phase in ("Succeeded", "Failed")

    @property
    def cannot_start(self) -> bool:
        """Its container waits for a reason that may never go away."""
        return self.waiting in NEVER_STARTS | IMAGE_PULL_FAILS | CONFIG_FAILS

    @property
    def failed(self) -> bool:
        """It has failed, with or without a container that could tell of it."""
        return self.phase == "Failed" or bool(self.exit_code)


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A batch/v1 Job: an attempt, or the preflight."""

    key: Key
    name: str
    uid: str
    version: int
    owner: str | None
    """uid of the DreamBoothJob that controls it."""
    component: str
    attempt: int | None
    created: datetime
    suspended: bool = False
    """A queue holds it back (spec.suspend), or the Job controller has not taken note that it was
    let go: it makes pods first, and tells of it (status.conditions, Suspended) afterwards."""
    started: datetime | None = None
    """status.startTime; set anew after its first pods were made when it is resumed."""
    deleting: bool = False
    completions: int | None = None
    """spec.completions: the nodes that it was made for."""
    complete: bool = False
    ended: datetime | None = None
    """When it was complete or had failed."""
    failing: datetime | None = None
    """Since when it is to fail (FailureTarget), while its pods are stopped."""
    failed: bool = False
    """Failed, and all its pods have ended."""
    failure_reason: str = ""
    failure_message: str = ""
    counters: str = ""
    """The counters with which the attempt was started, as JSON."""

    @property
    def live(self) -> bool:
        """Its pods run or may run, and nobody has asked them to stop."""
        return not (self.complete or self.failed or self.deleting)


def pod_snapshot(body: Body) -> PodSnapshot | None:
    """The view of a pod; None when its labels say that it is none of ours."""
    meta, status = body["metadata"], body.get("status", {})
    labels = meta.get("labels", {})
    if names.JOB_LABEL not in labels:
        return None
    conditions = by_type(status.get("conditions", []))
    state = _trainer_state(status)
    ended = state.get("terminated") or {}
    waiting = state.get("waiting") or {}
    disruption = conditions.get("DisruptionTarget", {})
    scheduled = conditions.get("PodScheduled", {})
    grace = timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    deletion = time_of(meta.get("deletionTimestamp"))
    return PodSnapshot(
        key=Key(meta["namespace"], labels[names.JOB_LABEL]),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        job_uid=controller_uid(meta),
        component=labels.get(names.COMPONENT_LABEL, ""),
        attempt=_number(labels.get(names.ATTEMPT_LABEL)),
        index=_number(labels.get(INDEX_LABEL)) or 0,
        created=required_time(meta["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        node=body.get("spec", {}).get("nodeName"),
        scheduled=time_of(scheduled.get("lastTransitionTime")) if _holds(scheduled) else None,
        ip=status.get("podIP"),
        ready=_holds(conditions.get("Ready")),
        running=bool(state.get("running") or ended),
        stop_asked=deletion - grace if deletion else None,
        finished=time_of(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        termination=Termination.decode(ended["message"]) if "message" in ended else NO_TERMINATION,
        reason=status.get("reason", ""),
        reason_message=status.get("message", ""),
        out_of_memory=ended.get("reason") == "OOMKilled",
        waiting=waiting.get("reason"),
        waiting_message=waiting.get("message", ""),
        disruption=disruption.get("reason") if _holds(disruption) else None,
        disruption_message=disruption.get("message", ""),
        unschedulable=scheduled.get("message") if scheduled.get("status") == "False" else None,
    )


def job_snapshot(body: Body) -> JobSnapshot | None:
    """The view of a batch/v1 Job; None when its labels say that it is none of ours."""
    meta, status = body["metadata"], body.get("status", {})
    labels = meta.get("labels", {})
    if names.JOB_LABEL not in labels:
        return None
    conditions = by_type(status.get("conditions", []))
    failed, target = conditions.get("Failed", {}), conditions.get("FailureTarget", {})
    complete = conditions.get("Complete", {})
    failure = failed if _holds(failed) else target
    return JobSnapshot(
        key=Key(meta["namespace"], labels[names.JOB_LABEL]),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner=controller_uid(meta),
        component=labels.get(names.COMPONENT_LABEL, ""),
        attempt=_number(labels.get(names.ATTEMPT_LABEL)),
        created=required_time(meta["creationTimestamp"]),
        suspended=bool(body.get("spec", {}).get("suspend")) or _holds(conditions.get("Suspended")),
        started=time_of(status.get("startTime")),
        deleting="deletionTimestamp" in meta,
        completions=body.get("spec", {}).get("completions"),
        complete=_holds(complete),
        ended=time_of((complete if _holds(complete) else failed).get("lastTransitionTime")),
        failing=time_of(target.get("lastTransitionTime")) if _holds(target) else None,
        failed=_holds(failed),
        failure_reason=failure.get("reason", "") if _holds(failure) else "",
        failure_message=failure.get("message", "") if _holds(failure) else "",
        counters=meta.get("annotations", {}).get(COUNTERS_ANNOTATION, ""),
    )


def by_type(conditions: Iterable[Body]) -> dict[str, Body]:
    """Conditions by their type."""
    return {condition["type"]: condition for condition in conditions}


def controller_uid(meta: Body) -> str | None:
    """Uid of the object that controls this one."""
    owners = meta.get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def controls(job_uid: str, meta: Body) -> bool:
    """Whether the DreamBoothJob with this uid controls the object with this metadata."""
    owners = meta.get("ownerReferences", [])
    return any(
        owner["kind"] == KIND and owner["uid"] == job_uid and owner.get("controller")
        for owner in owners
    )


def time_of(text: str | None) -> datetime | None:
    """A meta/v1 Time or MicroTime."""
    return datetime.fromisoformat(text) if text else None


def required_time(text: str) -> datetime:
    """A meta/v1 Time that is always there."""
    return datetime.fromisoformat(text)


def _trainer_state(status: Body) -> Body:
    """State of the trainer's container."""
    found: Iterable[Body] = status.get("containerStatuses", [])
    return next((c.get("state", {}) for c in found if c["name"] == names.TRAINER), {})


def _holds(condition: Body | None) -> bool:
    return bool(condition) and condition.get("status") == "True"  # type: ignore[union-attr]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
