"""Why pods are refused: quotas, admission policies, missing ServiceAccounts and the like.

No object says so but the events of the Job whose pods were to be created (core/v1 Event), which the
Job controller posts with the API server's own words. They are read only while a Job lacks pods.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.kinds import EVENT
from dreambooth_operator.controller.kube.objects import Body, Key, time_of
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot

logger = logging.getLogger(__name__)

JOB_CONTROLLER = "job-controller"
FIRST_READ_SECONDS = 2.0
"""Most pods are created by then, and no event need be read."""
MIN_INTERVAL_SECONDS = 2.5
"""A job may be reconciled several times a second, and each read goes to etcd."""
MAX_SECONDS = 10.0
"""A namespace can hold a hundred thousand events, all of which the API server goes through."""
PREFIXES = ("(combined from similar events): ", "Error creating: ")


@dataclass
class _Reading:
    job_uid: str
    due: float
    """By the reader's clock, in seconds."""
    message: str = ""


class RefusalReader:
    """Reads why the pods of a Job are refused, at most every `MIN_INTERVAL_SECONDS` for each.

    Only one Job of a namespace at a time: one with many events and jobs would take up all workers.
    """

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._readings: dict[Key, _Reading] = {}
        self._busy: set[str] = set()
        """Namespaces whose events are being read."""
        self._problem = ""

    def forget(self, key: Key) -> None:
        """Forget a job whose pods exist, or that was deleted."""
        self._readings.pop(key, None)

    async def read(self, key: Key, job: JobSnapshot, pods: Iterable[PodSnapshot]) -> str:
        """The API server's words about the last pod of `job` that it refused.

        Args:
            key: The DreamBoothJob.
            job: A Job that lacks pods.
            pods: The pods that it has or had: what was refused before they were created is over.

        Returns:
            The message, or the one read last; empty if none was refused, or if events cannot be
            read.
        """
        now = self._clock()
        reading = self._readings.get(key)
        if reading is None or reading.job_uid != job.uid:
            reading = self._readings[key] = _Reading(job.uid, now + FIRST_READ_SECONDS)
        if now >= reading.due and key.namespace not in self._busy:
            reading.due = now + MIN_INTERVAL_SECONDS
            since = max((pod.created for pod in pods), default=job.started)
            self._busy.add(key.namespace)
            try:
                reading.message = await self._read_events(key, job, since)
            finally:
                self._busy.discard(key.namespace)
        return reading.message

    async def _read_events(self, key: Key, job: JobSnapshot, since: datetime | None) -> str:
        fields = f"involvedObject.uid={job.uid},reason=FailedCreate"
        found: list[tuple[datetime, str]] = []
        try:
            async with asyncio.timeout(MAX_SECONDS):
                async for page in self._api.pages(EVENT, key.namespace, fields):
                    found += [known for body in page.items if (known := _decode(body))]
        # Nothing depends on events: the job goes on without the reason.
        except (errors.ApiError, TimeoutError) as error:
            problem = str(error) or f"not all were read within {MAX_SECONDS:g} s"
            if self._problem != problem:
                self._problem = problem
                logger.warning("%s: events of Job %s cannot be read: %s", key, job.name, problem)
        newest = max(found, default=None)
        if newest is None or (since is not None and newest[0] < since):
            return ""
        return newest[1]


def _decode(event: Body) -> tuple[datetime, str] | None:
    """When an event occurred last, and its message; None for one that is not the controller's.

    Anybody may post an event of any content.
    """
    try:
        if JOB_CONTROLLER not in (
            event.get("reportingComponent"),
            event.get("source", {}).get("component"),
        ):
            return None
        series = event.get("series") or {}
        last = series.get("lastObservedTime") or event.get("lastTimestamp")
        occurred = time_of(last or event.get("eventTime"))
        message = str(event["message"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    for prefix in PREFIXES:
        message = message.removeprefix(prefix)
    return (occurred, message) if occurred and message else None
