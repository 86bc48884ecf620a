"""The objects that the operator watches as the cache keeps them.

A DreamBoothJob is kept as compact JSON, its children as snapshots of the fields in use.
"""

import json
from dataclasses import dataclass
from typing import Any

from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot, job_snapshot
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD, Kind
from dreambooth_operator.controller.kube.objects import Body, Key, controller_uid, identify
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot, pod_snapshot
from dreambooth_operator.controller.watch.job_summary import JobSummary, summarize
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.content import is_edited
from dreambooth_operator.manifests.metadata import inherited

KEPT_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
)


@dataclass(frozen=True, slots=True)
class DreamBoothJobSnapshot:
    """A DreamBoothJob as the API server sent it, without metadata that the operator ignores.

    Above all without managedFields, often the largest part (meta/v1 ObjectMeta).
    """

    key: Key
    name: str
    uid: str
    version: int
    summary: JobSummary
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class ChildSnapshot:
    """A Service or ConfigMap of a job (core/v1)."""

    key: Key
    kind: str
    name: str
    uid: str
    version: int
    owner: str | None
    """uid of the DreamBoothJob that controls it."""
    edited: bool = False
    """Somebody has changed its content."""


Snapshot = DreamBoothJobSnapshot | JobSnapshot | PodSnapshot | ChildSnapshot


def snapshot_of(kind: Kind, body: Body) -> Snapshot | None:
    """The snapshot of an object; None for an object without the operator's labels.

    Raises:
        Exception: Of any kind; the object cannot be read.
    """
    if identify(body) is None:
        raise ValueError("its metadata is incomplete")
    if kind is DREAMBOOTH_JOB:
        return _dreambooth_job_snapshot(body)
    if kind is JOB:
        return job_snapshot(body)
    if kind is POD:
        return pod_snapshot(body)
    return _child_snapshot(kind, body)


def _dreambooth_job_snapshot(body: Body) -> DreamBoothJobSnapshot:
    meta = body["metadata"]
    kept: dict[str, Any] = {
        "apiVersion": DREAMBOOTH_JOB.api_version,
        "kind": DREAMBOOTH_JOB.name,
        "metadata": {
            **{name: meta[name] for name in KEPT_METADATA if name in meta},
            # Not kubectl's, which hold the whole job a second time.
            "annotations": inherited(meta.get("annotations", {})),
        },
        "spec": body.get("spec", {}),
        "status": body.get("status") or {},
    }
    return DreamBoothJobSnapshot(
        key=Key(meta["namespace"], meta["name"]),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        summary=summarize(kept),
        body=json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode(),
    )


def _child_snapshot(kind: Kind, body: Body) -> ChildSnapshot | None:
    meta = body["metadata"]
    job = meta.get("labels", {}).get(names.JOB_LABEL)
    if job is None:
        return None
    return ChildSnapshot(
        key=Key(meta["namespace"], str(job)),
        kind=kind.name,
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner=controller_uid(meta),
        edited=is_edited(body),
    )
