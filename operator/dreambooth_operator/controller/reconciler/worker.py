"""Reconciles one job after the other: observe, decide, execute, report, requeue."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from dreambooth_api.contract.conditions import Reason
from dreambooth_operator.controller.decide.state.decision import Decision, Event
from dreambooth_operator.controller.decide.state.observed import Blocked, Observed, Policy
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.reconciler.execute import Executor
from dreambooth_operator.controller.reconciler.observe import InvalidSpecError, Observer
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue

logger = logging.getLogger(__name__)

REFUSALS = (errors.ForbiddenError, errors.InvalidError, errors.WebhookError)
"""A retry helps only once somebody has changed the cluster, so the status shows them."""
REFUSAL_RETRY_SECONDS = 60.0
WEBHOOK_RETRY_SECONDS = 10.0

Decide = Callable[[Observed, datetime, Policy], Decision]


class WorkerMetrics(Protocol):
    """What a worker measures. Durations are in seconds."""

    def reconciled(self, seconds: float) -> None:
        """A job was reconciled, successfully or not, in so many seconds."""

    def failed(self, kind: str) -> None:
        """A reconciliation failed; `kind` is that of the `ApiError`, or "bug"."""

    def changed(self, observed: Observed, decision: Decision) -> None:
        """A decision changed a status."""


class Worker:
    """Takes keys from the queue. Several may share one queue: a key is never with two of them."""

    def __init__(
        self,
        queue: Queue[Key],
        observer: Observer,
        executor: Executor,
        poller: Poller,
        decide: Decide,
        policy: Policy,
        now: Now,
        metrics: WorkerMetrics,
    ) -> None:
        self._queue = queue
        self._observer = observer
        self._executor = executor
        self._poller = poller
        self._decide = decide
        self._policy = policy
        self._now = now
        self._metrics = metrics
        self._posted: dict[Key, str] = {}
        """For each job whose status cannot be written: the problem that an event was posted for."""

    async def run(self) -> None:
        """Work until cancelled. No error ends it."""
        while True:
            key = await self._queue.get()
            started = time.monotonic()
            try:
                await self._reconcile(key)
            # A bug that one job triggers must not stop the others: the key is retried with a
            # back-off.
            except Exception as error:
                self._retry(key, error)
            else:
                self._queue.done(key)
            self._metrics.reconciled(time.monotonic() - started)

    async def _reconcile(self, key: Key) -> None:
        try:
            observed = await self._observer.observe(key)
            if observed is None:
                # The job was deleted: nothing of it may stay in memory.
                self._poller.set_address(key, None)
                self._posted.pop(key, None)
            else:
                await self._decide_and_execute(key, observed)
        except InvalidSpecError as error:
            await self._executor.report_invalid_spec(error)
        except (errors.ConflictError, errors.NotFoundError):
            # Usual after a missed or late event. If the cache was up to date, another object is in
            # conflict.
            if not await self._observer.refresh(key):
                raise
            self._queue.add(key)  # decide again on what was just read

    async def _decide_and_execute(self, key: Key, observed: Observed) -> None:
        decision = self._decide(observed, self._now(), self._policy)
        try:
            if await self._executor.execute(observed.job, decision.actions):
                # Status and events follow in the next round, after the other jobs: the last of a
                # thousand new jobs is not delayed by the reports on the first.
                self._queue.add(key)
                return
            changed = await self._executor.report(observed.job, decision)
        except (errors.NameTakenError, *REFUSALS) as error:
            if isinstance(error, errors.ApiError):
                self._metrics.failed(error.kind)
            # Without its actions: they cannot be carried out now.
            observed = replace(observed, blocked=_blocked(error))
            decision = self._decide(observed, self._now(), self._policy)
            changed = await self._report_blocked(key, observed, decision)
        self._posted.pop(key, None)
        self._poller.set_address(key, decision.poll_address)
        if decision.requeue_seconds is not None:
            self._queue.add(key, after=decision.requeue_seconds)
        if changed:
            # The new status may call for more, and the cache holds it: no watch will requeue it.
            self._queue.add(key)
            self._metrics.changed(observed, decision)
        for event in decision.events:
            logger.info("%s: %s: %s", key, event.reason, event.message)

    async def _report_blocked(self, key: Key, observed: Observed, decision: Decision) -> bool:
        """Write the status; if not even that is allowed, post an event, once for each problem."""
        try:
            return await self._executor.report(observed.job, decision)
        except REFUSALS as error:
            problem = str(error)
            if self._posted.get(key) != problem:
                self._posted[key] = problem
                event = Event("Warning", _blocked(error).reason, problem)
                await self._executor.post(observed.job, event)
            raise

    def _retry(self, key: Key, error: Exception) -> None:
        delay = self._queue.failed(key, getattr(error, "retry_after", 0.0))
        if isinstance(error, errors.ApiError):
            self._metrics.failed(error.kind)
            logger.warning("%s: %s; retrying in %.1f s", key, error, delay)
        else:
            self._metrics.failed("bug")
            logger.exception("%s: retrying in %.1f s", key, delay, exc_info=error)


def _blocked(error: Exception) -> Blocked:
    if isinstance(error, errors.NameTakenError):
        message = f"{error} exists and is not this job's; delete it, or rename the DreamBoothJob"
        return Blocked(Reason.NAME_TAKEN, message, REFUSAL_RETRY_SECONDS)
    if isinstance(error, errors.WebhookError):
        message = f"an admission webhook of the cluster does not answer: {error}"
        return Blocked(Reason.WEBHOOK_FAILED, message, WEBHOOK_RETRY_SECONDS)
    message = f"the API server refuses what the job needs: {error}"
    return Blocked(Reason.NOT_ALLOWED, message, REFUSAL_RETRY_SECONDS)
