"""What the watches said, kept small: a thousand jobs have thousands of pods.

A DreamBoothJob is kept as compact JSON, its children as views. What an answer or a watch says is
taken over when it is newer than what is known, so that neither undoes the other.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from dreambooth_operator.controller.decide.start_problems import waits_in_vain
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.kinds import (
    CONFIG_MAP,
    DREAMBOOTH_JOB,
    JOB,
    POD,
    SERVICE,
    Kind,
)
from dreambooth_operator.controller.kube.snapshots import (
    Body,
    JobSnapshot,
    Key,
    PodSnapshot,
    controller_uid,
    job_snapshot,
    pod_snapshot,
)
from dreambooth_operator.controller.watch.job_summary import Facts, facts_of
from dreambooth_operator.manifests import names

REMEMBERED_REMOVALS = 10_000
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
class Record:
    """A DreamBoothJob as the API server sent it, without what nobody reads."""

    key: Key
    name: str
    uid: str
    version: int
    facts: Facts
    body: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class ChildSnapshot:
    """A Service or ConfigMap of a job."""

    key: Key
    kind: str
    name: str
    uid: str
    version: int
    owner: str | None
    """uid of the DreamBoothJob that controls it."""


Snapshot = Record | JobSnapshot | PodSnapshot | ChildSnapshot


@dataclass(slots=True)
class _Family:
    """All that is known of one key. Children by name."""

    record: Record | None = None
    jobs: dict[str, JobSnapshot] = field(default_factory=dict)
    pods: dict[str, PodSnapshot] = field(default_factory=dict)
    shared: dict[tuple[str, str], ChildSnapshot] = field(default_factory=dict)
    """Services and ConfigMaps by kind and name."""
    ended: JobSnapshot | None = None
    """The Job that went last. What its pods said is kept until another one comes."""

    def __bool__(self) -> bool:
        return bool(self.record or self.jobs or self.pods or self.shared)


class Store:
    """The objects that the operator knows, by DreamBoothJob."""

    def __init__(self, now: Now = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._families: dict[Key, _Family] = {}
        self._index: dict[Kind, dict[tuple[str, str], Snapshot]] = {
            kind: {} for kind in (DREAMBOOTH_JOB, JOB, POD, SERVICE, CONFIG_MAP)
        }
        """The same objects by kind, namespace and name."""
        self._removed: OrderedDict[str, None] = OrderedDict()
        """uids of objects that are gone: a late answer does not bring them back."""

    def put(self, kind: Kind, body: Body) -> Key | None:
        """Take an object over. Returns the job that it concerns; None: nothing new."""
        view = view_of(kind, body)
        if view is None or view.uid in self._removed:
            return None
        place = (view.key.namespace, view.name)
        known = self._index[kind].get(place)
        if known is not None and known.version >= view.version:
            return None
        if known is not None and (known.uid, known.key) != (view.uid, view.key):
            self._drop(kind, known)
        self._index[kind][place] = view
        self._enter(view)
        return view.key

    def remove(self, kind: Kind, namespace: str, name: str, uid: str) -> Key | None:
        """An object is gone. Returns the job that it concerned; None: it was not known.

        A pod's last view is kept until the next Job comes: how it ended has to be judged, and pods
        and their Job go at about the same time.
        """
        self._removed[uid] = None
        while len(self._removed) > REMEMBERED_REMOVALS:
            self._removed.popitem(last=False)
        view = self._index[kind].get((namespace, name))
        if view is None or view.uid != uid:
            return None
        del self._index[kind][namespace, name]
        self._drop(kind, view)
        return view.key

    def record(self, key: Key) -> Record | None:
        """The DreamBoothJob itself."""
        family = self._families.get(key)
        return family.record if family else None

    def jobs(self, key: Key, owner: str) -> list[JobSnapshot]:
        """Jobs that the DreamBoothJob with that uid controls."""
        family = self._families.get(key, _Family())
        return [job for job in family.jobs.values() if job.owner == owner]

    def pods(self, key: Key, owner: str) -> list[PodSnapshot]:
        """Pods of its Jobs and of the one that went last, also those that are gone, and whatever
        pods still run without a Job.
        """
        family = self._families.get(key, _Family())
        uids = {job.uid for job in self.jobs(key, owner)}
        if family.ended and family.ended.owner == owner:
            uids.add(family.ended.uid)
        return [pod for pod in family.pods.values() if pod.job_uid in uids or not pod.ended]

    def owns(self, key: Key, owner: str, kind: str, name: str) -> bool:
        """Whether a child is known, and controlled by the DreamBoothJob with that uid."""
        family = self._families.get(key, _Family())
        child = family.jobs.get(name) if kind == JOB.name else family.shared.get((kind, name))
        return child is not None and child.owner == owner

    def known(self, kind: Kind) -> Mapping[tuple[str, str], Snapshot]:
        """The objects of a kind that exist, by namespace and name."""
        return self._index[kind]

    def records(self) -> Iterator[Record]:
        """All DreamBoothJobs."""
        return (family.record for family in self._families.values() if family.record)

    def _enter(self, view: Snapshot) -> None:
        family = self._families.setdefault(view.key, _Family())
        if isinstance(view, Record):
            family.record = view
        elif isinstance(view, JobSnapshot):
            if view.name not in family.jobs:
                self._forget_ended(family)
            family.jobs[view.name] = view
        elif isinstance(view, PodSnapshot):
            family.pods[view.uid] = self._dated(view, family.pods.get(view.uid))
        else:
            family.shared[view.kind, view.name] = view

    def _dated(self, view: PodSnapshot, before: PodSnapshot | None) -> PodSnapshot:
        """The view with the time since when its container cannot start, which no pod tells."""
        if not waits_in_vain(view.waiting):
            return view
        since = before.waiting_since if before else None
        return replace(view, waiting_since=since or self._now())

    def _drop(self, kind: Kind, view: Snapshot) -> None:
        family = self._families[view.key]
        if isinstance(view, Record):
            family.record = None
            self._forget_ended(family)
        elif isinstance(view, JobSnapshot):
            del family.jobs[view.name]
            self._forget_ended(family)
            family.ended = view
            if family.record is None:
                self._forget_ended(family)
        elif isinstance(view, PodSnapshot):
            jobs = [*family.jobs.values(), *([family.ended] if family.ended else [])]
            if any(job.uid == view.job_uid for job in jobs):
                family.pods[view.uid] = replace(view, gone=True)
            else:
                del family.pods[view.uid]
        else:
            del family.shared[view.kind, view.name]
        if not family:
            del self._families[view.key]

    @staticmethod
    def _forget_ended(family: _Family) -> None:
        """Forget the Job that went last, and its pods that are gone."""
        if family.ended:
            uid, family.ended = family.ended.uid, None
            gone = [pod.uid for pod in family.pods.values() if pod.gone and pod.job_uid == uid]
            for each in gone:
                del family.pods[each]


def view_of(kind: Kind, body: Body) -> Snapshot | None:
    """What of an object is kept; None when it is none of the operator's."""
    if kind is DREAMBOOTH_JOB:
        return _record(body)
    if kind is JOB:
        return job_snapshot(body)
    if kind is POD:
        return pod_snapshot(body)
    return _child(kind, body)


def _record(body: Body) -> Record:
    meta = body["metadata"]
    kept: dict[str, Any] = {
        "apiVersion": DREAMBOOTH_JOB.api_version,
        "kind": DREAMBOOTH_JOB.name,
        "metadata": {name: meta[name] for name in KEPT_METADATA if name in meta},
        "spec": body.get("spec", {}),
        "status": body.get("status") or {},
    }
    return Record(
        key=Key(meta["namespace"], meta["name"]),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        facts=facts_of(kept),
        body=json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode(),
    )


def _child(kind: Kind, body: Body) -> ChildSnapshot | None:
    meta = body["metadata"]
    job = meta.get("labels", {}).get(names.JOB_LABEL)
    if job is None:
        return None
    return ChildSnapshot(
        key=Key(meta["namespace"], job),
        kind=kind.name,
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner=controller_uid(meta),
    )
