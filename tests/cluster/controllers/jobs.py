"""The Job controller: pods for every Job, and the truth about them in its status."""

import asyncio
from datetime import UTC, datetime, timedelta

from tests.cluster.client import Client, Object, tolerate
from tests.cluster.controllers import job_rules
from tests.cluster.controllers.events import Events, parse
from tests.cluster.controllers.informer import Informers
from tests.cluster.controllers.job_sync import JobSync
from tests.cluster.controllers.queue import Queue
from tests.cluster.controllers.resource import JOBS, NOT_FOUND, PODS
from tests.cluster.controllers.writes import Writes

JobKey = tuple[str, str, str]
"""Namespace, name and uid: a new Job of an old name has nothing to do with the old one's pods."""

COMPONENT = "job-controller"


class JobController:
    """Brings the pods of each Job to what its spec asks for; Jobs that finished let theirs go."""

    def __init__(self, client: Client, informers: Informers, events: Events) -> None:
        self._jobs = informers.of(JOBS)
        self._pods = informers.of(PODS)
        self._writes = Writes(client, informers, events, COMPONENT)
        self._events = events
        self._backoffs: dict[str, job_rules.Backoff] = {}
        self._refused: set[str] = set()
        self.queue: Queue[JobKey] = Queue(self._sync)

    async def run(self) -> None:
        """Work for ever."""
        await self._jobs.synced.wait()
        await self._pods.synced.wait()
        self._jobs.subscribe(lambda old, new: self._about_job(new or old))
        self._pods.subscribe(lambda old, new: self._about_pod(new or old))
        await self.queue.run()

    def _about_job(self, job: Object | None) -> None:
        assert job is not None
        meta = job["metadata"]
        self.queue.add((meta["namespace"], meta["name"], meta["uid"]))

    def _about_pod(self, pod: Object | None) -> None:
        assert pod is not None
        owner = controller_of(pod)
        if owner and owner["kind"] == "Job":
            self.queue.add((pod["metadata"]["namespace"], owner["name"], owner["uid"]))

    async def _sync(self, key: JobKey) -> float | None:
        namespace, name, uid = key
        job = self._jobs.get(namespace, name)
        pods = [pod for pod in self._pods.owned_by(uid) if _controlled_by(pod, uid)]
        if job is None or job["metadata"]["uid"] != uid or job_rules.is_finished(job):
            self._backoffs.pop(uid, None)
            tracked = filter(job_rules.is_tracked, pods)
            await asyncio.gather(*map(self._writes.untrack, tracked))
            return None
        if field := job_rules.unsupported(job):
            self._refuse(job, field)
            return None
        sync = JobSync(self._writes, job, pods, self._backoffs.get(uid, job_rules.Backoff()))
        again = await sync.run()
        self._backoffs[uid] = sync.backoff
        return again

    def _refuse(self, job: Object, field: str) -> None:
        """Say once that a Job is beyond this controller: it would hang without a word."""
        uid = job["metadata"]["uid"]
        if uid not in self._refused:
            self._refused.add(uid)
            how = "must be set" if field == "completions" else "must not be set"
            message = f"spec.{field} {how}: the test controllers do not know such Jobs"
            self._events.record(job, COMPONENT, "Unsupported", message, warning=True)


class TtlController:
    """Deletes Jobs `spec.ttlSecondsAfterFinished` after their end."""

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._jobs = informers.of(JOBS)
        self.queue: Queue[tuple[str, str]] = Queue(self._sync, workers=2)

    async def run(self) -> None:
        """Work for ever."""
        self._jobs.subscribe(lambda _, job: self._about(job))
        await self.queue.run()

    def _about(self, job: Object | None) -> None:
        if job and _expiry(job):
            self.queue.add((job["metadata"]["namespace"], job["metadata"]["name"]))

    async def _sync(self, key: tuple[str, str]) -> float | None:
        job = self._jobs.get(*key)
        expiry = job and _expiry(job)
        if not job or not expiry:
            return None
        remaining = (expiry - datetime.now(UTC)).total_seconds()
        if remaining <= 0:
            uid = {"uid": job["metadata"]["uid"]}
            path = JOBS.path_of(job)
            options = {"propagationPolicy": "Foreground", "preconditions": uid}
            with tolerate(NOT_FOUND):
                await self._client.delete(path, options)
            return None
        return remaining


def controller_of(object_: Object) -> Object | None:
    """The owner reference of the controller, if the object has one."""
    for owner in object_["metadata"].get("ownerReferences", []):
        if owner.get("controller"):
            return dict(owner)
    return None


def _controlled_by(pod: Object, uid: str) -> bool:
    owner = controller_of(pod)
    return owner is not None and owner["uid"] == uid


def _expiry(job: Object) -> datetime | None:
    """When a finished Job is to be deleted."""
    ttl = job["spec"].get("ttlSecondsAfterFinished")
    if ttl is None or "deletionTimestamp" in job["metadata"]:
        return None
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return parse(condition["lastTransitionTime"]) + timedelta(seconds=ttl)
    return None
