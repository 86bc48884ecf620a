"""Observes a job and carries out what was decided: the only module that talks to the API server
about jobs.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import Status
from dreambooth_api.parsing.load import InvalidJobError
from dreambooth_operator.controller.decide.decision import (
    Action,
    Apply,
    Decision,
    DeleteJob,
    Event,
)
from dreambooth_operator.controller.decide.defaults import JobDefaults, with_defaults
from dreambooth_operator.controller.decide.history import newest_attempt
from dreambooth_operator.controller.decide.observed import Observed
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.kinds import APPLIED, DREAMBOOTH_JOB, EVENT, JOB, Kind
from dreambooth_operator.controller.kube.snapshots import JobSnapshot, Key, controls, required_time
from dreambooth_operator.controller.reconciler.codec import read_job, refused_status, status_body
from dreambooth_operator.controller.reconciler.events import event_body
from dreambooth_operator.controller.watch.cache import Cache, DreamBoothJobSnapshot
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.manifests import names
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)

NO_DEFAULTS = JobDefaults()


class InvalidSpecError(Exception):
    """A DreamBoothJob whose spec this operator does not understand."""

    def __init__(self, record: DreamBoothJobSnapshot, problem: str) -> None:
        super().__init__(problem)
        self.record = record


class Cluster:
    """What is known of the cluster, and what can be done in it.

    Answers go into the store at once, so that whoever looks next sees what was just written.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        poller: Poller,
        now: Now,
        ensure_leads: Callable[[], None] = lambda: None,
        defaults: JobDefaults = NO_DEFAULTS,
    ) -> None:
        """`ensure_leads` is called before each write, and raises when it may not be sent."""
        self._defaults = defaults
        self._ensure_leads = ensure_leads
        self._api = api
        self._cache = cache
        self._poller = poller
        self._now = now

    async def observe(self, key: Key) -> Observed | None:
        """Everything that is known of a job; None when there is no such job (any more).

        Raises `InvalidSpecError`, or an `ApiError` when the API server has to be asked and does
        not answer.
        """
        record = self._cache.dreambooth_job(key)
        if record is None:
            return None
        try:
            job = read_job(record)
        except InvalidJobError as error:
            raise InvalidSpecError(record, str(error)) from error
        await self._look_for_open_attempt(key, job)
        return self._observed(key, job, record)

    async def carry_out(self, seen: Observed, actions: Sequence[Action]) -> bool:
        """Carry out what was decided; whether anything changed by that.

        Raises `NameTakenError` before anything is applied, or an `ApiError`, after which the rest
        is
        left undone.
        """
        for action in actions:
            if isinstance(action, Apply):
                await self._ensure_free(seen, action.manifest)
        changed = False
        for action in actions:
            changed |= await self._carry_out(seen, action)
        return changed

    async def report(self, seen: Observed, decision: Decision) -> bool:
        """Write the status, then post the events; whether anything changed by that.

        Raises an `ApiError`; `ConflictError` means that the job has changed meanwhile.
        """
        changed = False
        if decision.status is not None:
            changed = await self._write_status(seen.job, decision.status)
        for event in decision.events:
            await self.post(seen.job, event)
        return changed

    async def refuse(self, refused: InvalidSpecError) -> None:
        """Say in the status that the spec is not understood. Nothing else is touched."""
        record = refused.record
        status = refused_status(record, str(refused), self._now())
        if status is not None:
            await self._replace_status(record.key, record.version, status)

    async def refresh(self, key: Key) -> bool:
        """Ask for the job itself, as what is known of it may be out of date; whether it was."""
        record = self._cache.dreambooth_job(key)
        try:
            found = await self._api.get(DREAMBOOTH_JOB, key.namespace, key.name)
        except errors.NotFoundError:
            if record is not None:
                self._cache.remove(DREAMBOOTH_JOB, key.namespace, key.name, record.uid)
            return record is not None
        self._cache.update(DREAMBOOTH_JOB, found)
        return self._cache.dreambooth_job(key) is not record

    async def post(self, job: DreamBoothJob, event: Event) -> None:
        """Post an event. One that is lost does no harm."""
        try:
            self._ensure_leads()
            await self._api.create(EVENT, event_body(job, event, self._now()))
        except errors.ApiError as error:
            logger.warning("an event was not posted: %s", error)

    def _observed(
        self, key: Key, written: DreamBoothJob, record: DreamBoothJobSnapshot
    ) -> Observed:
        job, filled = with_defaults(written, self._defaults)
        jobs = self._cache.jobs(key, record.uid)
        attempts = [view for view in jobs if view.component == names.TRAINER]
        preflight = [view for view in jobs if view.name == names.preflight_name(job)]
        meta = job.metadata.model_extra or {}
        shared = {"Service": names.service_name(job), "ConfigMap": names.config_name(job)}
        return Observed(
            job=job,
            defaulted=tuple(filled),
            generation=int(meta.get("generation", 1)),
            created=required_time(meta["creationTimestamp"]),
            deleting="deletionTimestamp" in meta,
            attempts=tuple(sorted(attempts, key=_number)),
            preflight=next(iter(preflight), None),
            pods=tuple(self._cache.pods(key, record.uid)),
            reading=self._poller.reading(key),
            missing=frozenset(
                kind
                for kind, name in shared.items()
                if not self._cache.owns(key, record.uid, kind, name)
            ),
        )

    async def _look_for_open_attempt(self, key: Key, job: DreamBoothJob) -> None:
        """Ask for the Job of the newest attempt when it is not known: a late watch must not be
        taken for a Job that was deleted.
        """
        record = newest_attempt(job.status) if job.status else None
        if record is None or record.ended is not None:
            return
        name = names.attempt_name(job, record.number)
        if not self._cache.owns(key, job.metadata.uid or "", JOB.name, name):
            try:
                self._cache.update(JOB, await self._api.get(JOB, key.namespace, name))
            except errors.NotFoundError:
                logger.info("%s: Job %s is gone", key, name)

    async def _ensure_free(self, seen: Observed, manifest: Manifest) -> None:
        """Raise `NameTakenError` when something that is not the job's has the name of its child."""
        kind, meta = APPLIED[manifest["kind"]], manifest["metadata"]
        namespace, name, uid = meta["namespace"], meta["name"], seen.job.metadata.uid or ""
        if self._cache.owns(Key(namespace, seen.job.metadata.name), uid, kind.name, name):
            return
        try:
            found = await self._api.get(kind, namespace, name)
        except errors.NotFoundError:
            return
        if controls(uid, found["metadata"]):
            self._cache.update(kind, found)
        elif _is_on_its_way_out(seen.job, found["metadata"]):
            told = f"{kind.name} {name} of an earlier job of this name is not gone yet"
            raise errors.UnavailableError(told)
        else:
            raise errors.NameTakenError(kind.name, name)

    async def _carry_out(self, seen: Observed, action: Action) -> bool:
        self._ensure_leads()
        meta = seen.job.metadata
        if isinstance(action, Apply):
            kind, child = APPLIED[action.manifest["kind"]], action.manifest["metadata"]["name"]
            key = Key(meta.namespace, meta.name)
            if kind is JOB and self._cache.owns(key, meta.uid or "", kind.name, child):
                return False  # a Job is made once: its queue may have let it go meanwhile
            return self._took(kind, await self._api.apply(kind, action.manifest))
        if isinstance(action, DeleteJob):
            how = "Background" if action.background else "Foreground"
            return await self._delete(JOB, meta.namespace, action.name, action.uid, how)
        uid = meta.uid or ""
        return await self._delete(DREAMBOOTH_JOB, meta.namespace, meta.name, uid, "Background")

    async def _delete(
        self, kind: Kind, namespace: str, name: str, uid: str, propagation: str
    ) -> bool:
        try:
            left = await self._api.delete(kind, namespace, name, uid, propagation=propagation)
        except (errors.NotFoundError, errors.ConflictError):
            return self._cache.remove(kind, namespace, name, uid) is not None
        # It is there until its children are gone; else a Status is all that is left.
        return left["kind"] != kind.name or self._took(kind, left)

    async def _write_status(self, job: DreamBoothJob, status: Status) -> bool:
        meta = job.metadata
        version = int((meta.model_extra or {})["resourceVersion"])
        key = Key(meta.namespace, meta.name)
        return await self._replace_status(key, version, status_body(status))

    async def _replace_status(self, key: Key, version: int, status: Manifest) -> bool:
        self._ensure_leads()
        answer = await self._api.replace_status(
            DREAMBOOTH_JOB, key.namespace, key.name, version, status
        )
        return self._took(DREAMBOOTH_JOB, answer)

    def _took(self, kind: Kind, answer: Manifest) -> bool:
        """Take an answer over; whether it was news. What changes nothing keeps its version."""
        return self._cache.update(kind, answer) is not None


def _is_on_its_way_out(job: DreamBoothJob, meta: Manifest) -> bool:
    """Whether an object with the name of a child is what an earlier job of that name left."""
    owners: list[Manifest] = meta.get("ownerReferences", [])
    owner = next((each for each in owners if each.get("controller")), {})
    left = owner.get("kind") == DREAMBOOTH_JOB.name and owner.get("name") == job.metadata.name
    return left or "deletionTimestamp" in meta


def _number(view: JobSnapshot) -> tuple[int, datetime]:
    return (-1 if view.attempt is None else view.attempt, view.created)
