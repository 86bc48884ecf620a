"""Jobs as the operator keeps them: what `decide` goes by, out of batch/v1 Job."""

from dataclasses import dataclass
from datetime import datetime

from dreambooth_api.schema.base import GROUP
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

COUNTERS_ANNOTATION = f"{names.ATTEMPT_LABEL}-counters"
STOP_REASON_ANNOTATION = f"{GROUP}/stop-reason"


@dataclass(frozen=True, slots=True)
class JobSnapshot:
    """A Job of an attempt or of the preflight (batch/v1 Job)."""

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
    """A queue holds it back (spec.suspend), or the Job controller has not yet reported that it was
    resumed: it creates the pods first, and sets the Suspended condition to False afterwards."""
    started: datetime | None = None
    """status.startTime: reset when the Job is resumed, after its first pods were created."""
    deleting: bool = False
    completions: int | None = None
    """spec.completions: the number of nodes that it was created for."""
    complete: bool = False
    ended: datetime | None = None
    """When it completed or failed."""
    failing: datetime | None = None
    """Since when its pods are being stopped because it fails (FailureTarget condition)."""
    failed: bool = False
    """Failed, and all its pods have ended."""
    failure_reason: str = ""
    failure_message: str = ""
    queue: str = ""
    """Kueue LocalQueue that it waits in; one without a label may wait in `default`."""
    counters: str = ""
    """The counters with which the attempt was started, as JSON."""
    stop_reason: str = ""
    """Why the operator stopped it, and kept it for inspection."""

    @property
    def active_since(self) -> datetime:
        """When it was created, or last resumed by its queue (status.startTime)."""
        return self.started or self.created

    @property
    def live(self) -> bool:
        """Its pods run or may run, and it is not being deleted (status.conditions)."""
        return not (self.complete or self.failed or self.deleting)


def job_snapshot(body: Body) -> JobSnapshot | None:
    """The snapshot of a Job (batch/v1 Job); None for one without the operator's labels."""
    meta, status = body["metadata"], body.get("status", {})
    labels = meta.get("labels", {})
    if names.JOB_LABEL not in labels:
        return None
    conditions = by_type(status.get("conditions", []))
    failed, target = conditions.get("Failed", {}), conditions.get("FailureTarget", {})
    complete = conditions.get("Complete", {})
    # FailureTarget comes first, and has the same reason and message; Failed waits for the pods to
    # end.
    failure = failed if is_true(failed) else target
    return JobSnapshot(
        key=Key(meta["namespace"], str(labels[names.JOB_LABEL])),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner=controller_uid(meta),
        component=labels.get(names.COMPONENT_LABEL, ""),
        attempt=label_number(labels.get(names.ATTEMPT_LABEL)),
        created=required_time(meta["creationTimestamp"]),
        suspended=bool(body.get("spec", {}).get("suspend")) or is_true(conditions.get("Suspended")),
        started=time_of(status.get("startTime")),
        deleting="deletionTimestamp" in meta,
        completions=body.get("spec", {}).get("completions"),
        complete=is_true(complete),
        ended=time_of((complete if is_true(complete) else failed).get("lastTransitionTime")),
        failing=time_of(target.get("lastTransitionTime")) if is_true(target) else None,
        failed=is_true(failed),
        failure_reason=failure.get("reason", "") if is_true(failure) else "",
        failure_message=failure.get("message", "") if is_true(failure) else "",
        queue=labels.get(names.QUEUE_LABEL, ""),
        counters=meta.get("annotations", {}).get(COUNTERS_ANNOTATION, ""),
        stop_reason=meta.get("annotations", {}).get(STOP_REASON_ANNOTATION, ""),
    )
