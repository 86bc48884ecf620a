"""Collects the state of a job, and reads from the API server what the cache may not yet hold."""

import logging
from dataclasses import replace
from datetime import datetime

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError
from dreambooth_operator.controller.decide.defaults import JobDefaults, with_defaults
from dreambooth_operator.controller.decide.state.history import newest_attempt
from dreambooth_operator.controller.decide.state.observed import Observed
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB
from dreambooth_operator.controller.kube.objects import Key, required_time
from dreambooth_operator.controller.reconciler.codec import decode_job
from dreambooth_operator.controller.reconciler.refusals import RefusalReader
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.snapshots import DreamBoothJobSnapshot
from dreambooth_operator.manifests import names

logger = logging.getLogger(__name__)

NO_DEFAULTS = JobDefaults()


class InvalidSpecError(Exception):
    """A DreamBoothJob whose spec this operator does not understand; raised by `Observer.observe`.

    The API server has accepted it, so the CRD is of another version than the operator.
    """

    def __init__(self, snapshot: DreamBoothJobSnapshot, problem: str) -> None:
        super().__init__(problem)
        self.snapshot = snapshot


class Observer:
    """Observes jobs. What it reads from the API server goes into the cache."""

    def __init__(
        self, api: Api, cache: Cache, poller: Poller, defaults: JobDefaults = NO_DEFAULTS
    ) -> None:
        """`defaults` are filled in where a job leaves fields unset."""
        self._api = api
        self._cache = cache
        self._poller = poller
        self._defaults = defaults
        self._refusals = RefusalReader(api)

    async def observe(self, key: Key) -> Observed | None:
        """Everything that is known of a job; None when the job does not exist.

        Raises:
            InvalidSpecError: The spec of the job is not understood.
            ApiError: The API server had to be queried, and the request failed.
        """
        snapshot = self._cache.dreambooth_job(key)
        if snapshot is None:
            self._refusals.forget(key)
            return None
        try:
            job = decode_job(snapshot)
        except InvalidJobError as error:
            raise InvalidSpecError(snapshot, str(error)) from error
        await self._find_open_attempt(key, job)
        observed = self._observed(key, job)
        waiting = observed.job_without_pods
        if waiting is None:
            self._refusals.forget(key)
            return observed
        refusal = await self._refusals.read(key, waiting, observed.pods_of(waiting))
        return replace(observed, refusal=refusal)

    async def refresh(self, key: Key) -> bool:
        """Read the DreamBoothJob from the API server into the cache.

        Returns:
            Whether the cache was out of date.

        Raises:
            ApiError: The API server did not answer.
        """
        snapshot = self._cache.dreambooth_job(key)
        try:
            body = await self._api.get(DREAMBOOTH_JOB, key.namespace, key.name)
        except errors.NotFoundError:
            if snapshot is not None:
                self._cache.remove(DREAMBOOTH_JOB, key.namespace, key.name, snapshot.uid)
            return snapshot is not None
        self._cache.update(DREAMBOOTH_JOB, body)
        return self._cache.dreambooth_job(key) is not snapshot

    async def _find_open_attempt(self, key: Key, job: DreamBoothJob) -> None:
        """Read the Job of the newest attempt if the cache does not hold it.

        A watch that lags behind must not be taken for a Job that was deleted.
        """
        record = newest_attempt(job.status) if job.status else None
        if record is None or record.ended is not None:
            return
        name = names.attempt_name(job, record.number)
        if not self._cache.owned_uid(key, job.metadata.uid or "", JOB.name, name):
            try:
                self._cache.update(JOB, await self._api.get(JOB, key.namespace, name))
            except errors.NotFoundError:
                logger.info("%s: Job %s does not exist any more", key, name)

    def _observed(self, key: Key, written: DreamBoothJob) -> Observed:
        job, defaulted = with_defaults(written, self._defaults)
        uid, meta = job.metadata.uid or "", job.metadata.model_extra or {}
        jobs = self._cache.jobs(key, uid)
        attempts = [each for each in jobs if each.component == names.TRAINER]
        preflights = [each for each in jobs if each.name == names.preflight_name(job)]
        shared = {"Service": names.service_name(job), "ConfigMap": names.config_name(job)}
        damaged = [
            kind for kind, name in shared.items() if not self._cache.is_intact(key, uid, kind, name)
        ]
        return Observed(
            job=job,
            defaulted=tuple(defaulted),
            generation=int(meta.get("generation", 1)),
            created=required_time(meta["creationTimestamp"]),
            deleting="deletionTimestamp" in meta,
            attempts=tuple(sorted(attempts, key=_number)),
            preflight=preflights[0] if preflights else None,
            pods=tuple(self._cache.pods(key, uid)),
            reading=self._poller.reading(key),
            damaged=frozenset(damaged),
        )


def _number(job: JobSnapshot) -> tuple[int, datetime]:
    # A Job without a number is not one of the operator's: it sorts first, and never counts as
    # newest.
    return (-1 if job.attempt is None else job.attempt, job.created)
