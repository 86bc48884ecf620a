"""The objects that the operator watches, kept small: a thousand jobs have thousands of pods.

A DreamBoothJob is kept as compact JSON, its children as snapshots. Watch events and the answers to
the operator's own writes both update the cache, in any order: the newest version wins.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.kinds import JOB, POD, WATCHED, Kind
from dreambooth_operator.controller.kube.objects import Body, Key
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.controller.watch.snapshots import (
    ChildSnapshot,
    DreamBoothJobSnapshot,
    Snapshot,
    snapshot_of,
)

REMEMBERED_REMOVALS = 10_000
"""Number of deleted objects whose uids are kept."""
MAX_PODS = 20_000
"""Pods of one namespace that are kept: anyone who can create pods can label them as a job's."""

OnUnreadable = Callable[[Kind, Body, Exception], None]


@dataclass(slots=True)
class _Family:
    """A DreamBoothJob and its children, by name; pods by uid."""

    dreambooth_job: DreamBoothJobSnapshot | None = None
    jobs: dict[str, JobSnapshot] = field(default_factory=dict)
    pods: dict[str, PodSnapshot] = field(default_factory=dict)
    shared: dict[tuple[str, str], ChildSnapshot] = field(default_factory=dict)
    """Services and ConfigMaps by kind and name."""
    deleted_job: JobSnapshot | None = None
    """The Job that was deleted last. Its pods are kept until another Job is created."""

    def __bool__(self) -> bool:
        return bool(self.dreambooth_job or self.jobs or self.pods or self.shared)

    def forget_deleted_job(self) -> int:
        """Forget the Job that was deleted last, and its deleted pods; returns their number."""
        if self.deleted_job is None:
            return 0
        uid, self.deleted_job = self.deleted_job.uid, None
        gone = [pod.uid for pod in self.pods.values() if pod.gone and pod.job_uid == uid]
        for pod_uid in gone:
            del self.pods[pod_uid]
        return len(gone)


class TooManyPodsError(Exception):
    """A namespace has more pods of jobs than the cache keeps."""


class Cache:
    """The objects that the operator watches, by DreamBoothJob.

    Objects are filed by the label of their job, and count as its children only if it is their
    controller (meta/v1 OwnerReference): anyone can set a label.
    """

    def __init__(
        self, now: Now = lambda: datetime.now(UTC), on_unreadable: OnUnreadable = lambda *_: None
    ) -> None:
        """`on_unreadable` is called for each object that is passed over."""
        self._now = now
        self._on_unreadable = on_unreadable
        self._families: dict[Key, _Family] = {}
        self._index: dict[Kind, dict[tuple[str, str], Snapshot]] = {kind: {} for kind in WATCHED}
        """The same objects by kind, namespace and name."""
        self._pods: Counter[str] = Counter()
        """Pods kept by namespace, deleted ones among them."""
        self._removed: OrderedDict[str, None] = OrderedDict()
        """uids of deleted objects: an answer that arrives late must not restore them."""

    def update(self, kind: Kind, body: Body) -> Key | None:
        """Add or replace an object unless the cache holds this or a newer version.

        An object that cannot be read is passed over: one user's object must stop nobody's jobs.

        Returns:
            The job that the object belongs to; None where nothing changed.
        """
        try:
            snapshot = snapshot_of(kind, body)
        except Exception as error:
            self._on_unreadable(kind, body, error)
            return None
        if snapshot is None or snapshot.uid in self._removed:
            return None
        name = (snapshot.key.namespace, snapshot.name)
        cached = self._index[kind].get(name)
        if cached is not None and cached.version >= snapshot.version:
            return None
        if cached is None and kind is POD and self._pods[name[0]] >= MAX_PODS:
            problem = TooManyPodsError(f"the namespace has more than {MAX_PODS} pods of jobs")
            self._on_unreadable(kind, body, problem)
            return None
        # Deleted and created again without an event between, or moved to another job by its label.
        if cached is not None and (cached.uid, cached.key) != (snapshot.uid, snapshot.key):
            self._drop(cached)
        self._index[kind][name] = snapshot
        self._add(snapshot)
        return snapshot.key

    def remove(self, kind: Kind, namespace: str, name: str, uid: str) -> Key | None:
        """Remove an object that was deleted.

        A pod's last snapshot is kept until the next Job is created: `decide` needs to know how the
        pod ended, and a Job and its pods are deleted at about the same time.

        Returns:
            The job that the object belonged to; None if the cache did not hold it.
        """
        self._removed[uid] = None
        # Answers are late by seconds: the oldest uids are no longer needed.
        while len(self._removed) > REMEMBERED_REMOVALS:
            self._removed.popitem(last=False)
        snapshot = self._index[kind].get((namespace, name))
        if snapshot is None or snapshot.uid != uid:
            return None
        del self._index[kind][namespace, name]
        self._drop(snapshot)
        return snapshot.key

    def dreambooth_job(self, key: Key) -> DreamBoothJobSnapshot | None:
        """The DreamBoothJob itself; None if it does not exist."""
        family = self._families.get(key)
        return family.dreambooth_job if family else None

    def dreambooth_jobs(self) -> Iterator[DreamBoothJobSnapshot]:
        """All DreamBoothJobs."""
        return (
            family.dreambooth_job for family in self._families.values() if family.dreambooth_job
        )

    def jobs(self, key: Key, owner: str) -> list[JobSnapshot]:
        """The Jobs that the DreamBoothJob with the uid `owner` controls (batch/v1 Job)."""
        family = self._families.get(key, _Family())
        return [job for job in family.jobs.values() if job.owner == owner]

    def pods(self, key: Key, owner: str) -> list[PodSnapshot]:
        """Pods of its Jobs and of the Job that was deleted last, and pods that outlive their Job.

        Deleted pods are among them, with `gone` set.
        """
        family = self._families.get(key, _Family())
        uids = {job.uid for job in self.jobs(key, owner)}
        if family.deleted_job and family.deleted_job.owner == owner:
            uids.add(family.deleted_job.uid)
        return [pod for pod in family.pods.values() if pod.job_uid in uids or not pod.ended]

    def owned_uid(self, key: Key, owner: str, kind: str, name: str) -> str | None:
        """Uid of a child whose controller has the uid `owner` (meta/v1 OwnerReference)."""
        family = self._families.get(key, _Family())
        child = family.jobs.get(name) if kind == JOB.name else family.shared.get((kind, name))
        return child.uid if child is not None and child.owner == owner else None

    def is_intact(self, key: Key, owner: str, kind: str, name: str) -> bool:
        """Whether a Service or ConfigMap of the job `owner` exists, and nobody has edited it."""
        child = self._families.get(key, _Family()).shared.get((kind, name))
        return child is not None and child.owner == owner and not child.edited

    def objects(self, kind: Kind) -> Mapping[tuple[str, str], Snapshot]:
        """The objects of a kind that exist, by namespace and name (meta/v1 ObjectMeta)."""
        return self._index[kind]

    def _add(self, snapshot: Snapshot) -> None:
        family = self._families.setdefault(snapshot.key, _Family())
        if isinstance(snapshot, DreamBoothJobSnapshot):
            family.dreambooth_job = snapshot
        elif isinstance(snapshot, JobSnapshot):
            if snapshot.name not in family.jobs:  # a new attempt
                self._forget_deleted_job(snapshot.key, family)
            family.jobs[snapshot.name] = snapshot
        elif isinstance(snapshot, PodSnapshot):
            before = family.pods.get(snapshot.uid)
            self._pods[snapshot.key.namespace] += before is None
            family.pods[snapshot.uid] = self._with_earlier_times(snapshot, before)
        else:
            family.shared[snapshot.kind, snapshot.name] = snapshot

    def _forget_deleted_job(self, key: Key, family: _Family) -> None:
        self._pods[key.namespace] -= family.forget_deleted_job()

    def _with_earlier_times(self, pod: PodSnapshot, before: PodSnapshot | None) -> PodSnapshot:
        """Add the times that only earlier snapshots show.

        No field of a pod holds since when its container cannot start. And the kubelet's final
        deletion, with a grace period of 0, moves metadata.deletionTimestamp.
        """
        if before and before.deletion_requested and pod.deletion_requested:
            requested = min(before.deletion_requested, pod.deletion_requested)
            pod = replace(pod, deletion_requested=requested)
        if not pod.cannot_start:
            return pod
        since = before.waiting_since if before else None
        return replace(pod, waiting_since=since or self._now())

    def _drop(self, snapshot: Snapshot) -> None:
        family = self._families[snapshot.key]
        if isinstance(snapshot, DreamBoothJobSnapshot):
            family.dreambooth_job = None
            self._forget_deleted_job(snapshot.key, family)
        elif isinstance(snapshot, JobSnapshot):
            del family.jobs[snapshot.name]
            self._forget_deleted_job(snapshot.key, family)
            family.deleted_job = snapshot
            # Nothing is decided about a job that was deleted.
            if family.dreambooth_job is None:
                self._forget_deleted_job(snapshot.key, family)
        elif isinstance(snapshot, PodSnapshot):
            jobs = [*family.jobs.values(), *([family.deleted_job] if family.deleted_job else [])]
            # Kept while its Job counts, so that `decide` can tell how the pod ended.
            has_room = self._pods[snapshot.key.namespace] <= MAX_PODS // 2  # deleted ones get half
            if has_room and any(job.uid == snapshot.job_uid for job in jobs):
                family.pods[snapshot.uid] = replace(snapshot, gone=True)
            else:
                del family.pods[snapshot.uid]
                self._pods[snapshot.key.namespace] -= 1
        else:
            del family.shared[snapshot.kind, snapshot.name]
        if not family:
            del self._families[snapshot.key]
