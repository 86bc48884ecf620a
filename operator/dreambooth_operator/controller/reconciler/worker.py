"""Looks at one job after the other: observe, decide, act, and when to look again."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from dreambooth_operator.controller.decide.decision import Decision, Event
from dreambooth_operator.controller.decide.observed import Blocked, Observed, Policy
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.reconciler.executor import Cluster, InvalidSpecError
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue

logger = logging.getLogger(__name__)

Decide = Callable[[Observed, datetime, Policy], Decision]


class Reports(Protocol):
    """Whom a worker tells what it did."""

    def reconciled(self, seconds: float) -> None:
        """A job was looked at, in that time."""

    def failed(self, kind: str) -> None:
        """It could not be finished, by the kind of error."""

    def changed(self, seen: Observed, decision: Decision) -> None:
        """A decision was carried out."""


class Worker:
    """Takes keys from the queue. Several may share one queue: a key is never with two of them."""

    def __init__(
        self,
        queue: Queue[Key],
        cluster: Cluster,
        poller: Poller,
        decide: Decide,
        policy: Policy,
        now: Now,
        reports: Reports,
    ) -> None:
        self._queue = queue
        self._cluster = cluster
        self._poller = poller
        self._decide = decide
        self._policy = policy
        self._now = now
        self._reports = reports
        self._told: dict[Key, str] = {}
        """What the user of each job was told last about why it cannot go on."""

    async def run(self) -> None:
        """Work until cancelled. No error ends it."""
        while True:
            key = await self._queue.get()
            started = time.monotonic()
            try:
                await self._look_at(key)
            except Exception as error:
                self._failed(key, error)
            else:
                self._queue.done(key)
            self._reports.reconciled(time.monotonic() - started)

    async def _look_at(self, key: Key) -> None:
        try:
            seen = await self._cluster.observe(key)
            if seen is None:
                self._poller.set_address(key, None)
                self._told.pop(key, None)
                return
            await self._bring_about(key, seen)
        except InvalidSpecError as refused:
            await self._cluster.refuse(refused)
        except (errors.ConflictError, errors.NotFoundError):
            if not await self._cluster.refresh(key):
                raise
            self._queue.add(key)  # with what is known now

    async def _bring_about(self, key: Key, seen: Observed) -> None:
        decision = self._decide(seen, self._now(), self._policy)
        try:
            if await self._cluster.carry_out(seen, decision.actions):
                # What came of it is told at the next look, once the others have had their turn:
                # of a thousand new jobs the last one is not kept waiting by reports on the first.
                self._queue.add(key)
                return
            changed = await self._cluster.report(seen, decision)
        except (errors.NameTakenError, errors.ForbiddenError, errors.InvalidError) as error:
            # Only said: children cannot be made as things are.
            if isinstance(error, errors.ApiError):
                self._reports.failed(error.kind)
            seen = replace(seen, blocked=_blocked(error))
            decision = self._decide(seen, self._now(), self._policy)
            changed = await self._say(key, seen, decision)
        self._told.pop(key, None)
        self._poller.set_address(key, decision.poll_address)
        if decision.requeue_seconds is not None:
            self._queue.add(key, after=decision.requeue_seconds)
        if changed:
            # It may call for more, and no watch tells of what is known already.
            self._queue.add(key)
            self._reports.changed(seen, decision)
        for event in decision.events:
            logger.info("%s: %s: %s", key, event.reason, event.message)

    async def _say(self, key: Key, seen: Observed, decision: Decision) -> bool:
        """Only say what was decided; where not even that is allowed, an event must do."""
        try:
            return await self._cluster.report(seen, decision)
        except (errors.ForbiddenError, errors.InvalidError) as error:
            await self._tell(key, seen, str(error))
            raise

    async def _tell(self, key: Key, seen: Observed, problem: str) -> None:
        """Tell the job's user, once, what the API server does not let the operator do."""
        if self._told.get(key) != problem:
            self._told[key] = problem
            await self._cluster.post(seen.job, Event("Warning", "NotAllowed", problem))

    def _failed(self, key: Key, error: Exception) -> None:
        delay = self._queue.failed(key, getattr(error, "retry_after", 0.0))
        if isinstance(error, errors.ApiError):
            self._reports.failed(error.kind)
            logger.warning("%s: %s; trying again in %.1f s", key, error, delay)
        else:
            self._reports.failed("bug")
            logger.exception("%s: trying again in %.1f s", key, delay, exc_info=error)


def _blocked(error: Exception) -> Blocked:
    if isinstance(error, errors.NameTakenError):
        told = f"{error} exists and is not this job's; delete it, or rename the DreamBoothJob"
        return Blocked("NameTaken", told)
    return Blocked("NotAllowed", f"the API server refuses what the job needs: {error}")
