"""Carries out decisions: the only module that writes jobs and their children to the API server."""

import logging
from collections.abc import Callable, Sequence

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.controller.decide.state.decision import (
    Action,
    Apply,
    Decision,
    DeleteJob,
    Event,
    StopJob,
)
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.job_snapshots import STOP_REASON_ANNOTATION
from dreambooth_operator.controller.kube.kinds import APPLIED, DREAMBOOTH_JOB, EVENT, JOB, Kind
from dreambooth_operator.controller.kube.objects import Key, controls
from dreambooth_operator.controller.reconciler.codec import (
    encode_event,
    encode_invalid_spec,
    encode_status,
)
from dreambooth_operator.controller.reconciler.observe import InvalidSpecError
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)


class Executor:
    """Writes to the API server.

    Its answers go into the cache at once, so that the next observation includes what was written.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        now: Now,
        ensure_leads: Callable[[], None] = lambda: None,
    ) -> None:
        """`ensure_leads` is called before each write, and raises when it must not be sent."""
        self._api = api
        self._cache = cache
        self._now = now
        self._ensure_leads = ensure_leads

    async def execute(self, job: DreamBoothJob, actions: Sequence[Action]) -> bool:
        """Carry out actions in order; returns whether they changed anything.

        Raises:
            NameTakenError: The name of a child is taken. The actions after it were not carried out.
            ApiError: A request failed. The actions after it were not carried out.
        """
        changed = False
        for action in actions:
            changed |= await self._execute(job, action)
        return changed

    async def report(self, job: DreamBoothJob, decision: Decision) -> bool:
        """Write the status, then post the events; returns whether the status changed.

        Raises:
            ConflictError: The job has changed since it was observed. Nothing was written.
            ApiError: The request failed.
        """
        changed = False
        if decision.status is not None:
            meta = job.metadata
            # Of the object that the decision was based on: the write fails if it has changed since.
            version = int((meta.model_extra or {})["resourceVersion"])
            status = encode_status(decision.status)
            changed = await self._replace_status(Key(meta.namespace, meta.name), version, status)
        for event in decision.events:
            await self.post(job, event)
        return changed

    async def report_invalid_spec(self, error: InvalidSpecError) -> None:
        """Set the condition Accepted to False, and leave the rest of the status as it is.

        Raises:
            ApiError: The request failed.
        """
        snapshot = error.snapshot
        status = encode_invalid_spec(snapshot, str(error), self._now())
        if status is not None:
            await self._replace_status(snapshot.key, snapshot.version, status)

    async def post(self, job: DreamBoothJob, event: Event) -> None:
        """Post an event. Failure is logged: nothing depends on events."""
        try:
            self._ensure_leads()
            await self._api.create(EVENT, encode_event(job, event, self._now()))
        except errors.ApiError as error:
            logger.warning("an event was not posted: %s", error)

    async def _execute(self, job: DreamBoothJob, action: Action) -> bool:
        self._ensure_leads()
        meta = job.metadata
        uid = meta.uid or ""
        if isinstance(action, Apply):
            return await self._apply(job, action.manifest)
        if isinstance(action, DeleteJob):
            propagation = "Background" if action.background else "Foreground"
            return await self._delete(JOB, meta.namespace, action.name, action.uid, propagation)
        if isinstance(action, StopJob):
            return await self._stop(meta.namespace, action)
        return await self._delete(DREAMBOOTH_JOB, meta.namespace, meta.name, uid, "Background")

    async def _apply(self, job: DreamBoothJob, manifest: Manifest) -> bool:
        """Create a child, or change it if it exists already and the job controls it.

        The API server compares the uid: an object that takes the child's place meanwhile, and
        is somebody else's, is not changed.
        """
        kind, meta = APPLIED[manifest["kind"]], manifest["metadata"]
        namespace, name = meta["namespace"], meta["name"]
        key, owner = Key(namespace, job.metadata.name), job.metadata.uid or ""
        uid = self._cache.owned_uid(key, owner, kind.name, name)
        if uid is None:
            try:
                return self._update_cache(kind, await self._api.create(kind, manifest))
            except errors.ConflictError:
                uid = await self._read_existing(job, kind, namespace, name)
        if kind is JOB:
            return False  # applied again, it would be suspended after its queue admitted it
        manifest = manifest | {"metadata": meta | {"uid": uid}}
        return self._update_cache(kind, await self._api.apply(kind, manifest))

    async def _read_existing(
        self, job: DreamBoothJob, kind: Kind, namespace: str, name: str
    ) -> str:
        """Read a child that exists into the cache, and return its uid.

        Raises:
            NameTakenError: The job does not control it.
            ApiError: It is being deleted, or the API server did not answer.
        """
        try:
            body = await self._api.get(kind, namespace, name)
        except errors.NotFoundError as error:
            raise errors.UnavailableError(f"{kind.name} {name} was deleted just now") from error
        meta = body["metadata"]
        if controls(job.metadata.uid or "", meta):
            self._cache.update(kind, body)
            return str(meta["uid"])
        if _is_being_removed(job, meta):
            raise errors.UnavailableError(
                f"{kind.name} {name} of an earlier job of this name is still being deleted"
            )
        raise errors.NameTakenError(kind.name, name)

    async def _delete(
        self, kind: Kind, namespace: str, name: str, uid: str, propagation: str
    ) -> bool:
        try:
            body = await self._api.delete(kind, namespace, name, uid, propagation=propagation)
        except (errors.NotFoundError, errors.ConflictError):
            # Deleted already, or replaced by another object of the name: the cache was behind.
            return self._cache.remove(kind, namespace, name, uid) is not None
        # The object, while it waits for its children to be deleted; otherwise a meta/v1 Status.
        return body["kind"] != kind.name or self._update_cache(kind, body)

    async def _stop(self, namespace: str, action: StopJob) -> bool:
        manifest = {
            "apiVersion": JOB.api_version,
            "kind": JOB.name,
            "metadata": {
                "namespace": namespace,
                "name": action.name,
                "uid": action.uid,
                "annotations": {STOP_REASON_ANNOTATION: action.reason},
            },
            # Suspended, its queue would resume it.
            "spec": {"activeDeadlineSeconds": 1},
        }
        try:
            return self._update_cache(JOB, await self._api.apply(JOB, manifest))
        except errors.ConflictError:  # deleted, or replaced by another: the cache was behind
            return self._cache.remove(JOB, namespace, action.name, action.uid) is not None

    async def _replace_status(self, key: Key, version: int, status: Manifest) -> bool:
        self._ensure_leads()
        body = await self._api.replace_status(
            DREAMBOOTH_JOB, key.namespace, key.name, version, status
        )
        return self._update_cache(DREAMBOOTH_JOB, body)

    def _update_cache(self, kind: Kind, body: Manifest) -> bool:
        """Whether it changed: a write without effect leaves the resourceVersion as it was."""
        return self._cache.update(kind, body) is not None


def _is_being_removed(job: DreamBoothJob, meta: Manifest) -> bool:
    """Whether an object is being deleted, or will be with an earlier job of the same name."""
    owners: list[Manifest] = meta.get("ownerReferences", [])
    owner = next((each for each in owners if each.get("controller")), {})
    earlier = owner.get("kind") == DREAMBOOTH_JOB.name and owner.get("name") == job.metadata.name
    return earlier or "deletionTimestamp" in meta
