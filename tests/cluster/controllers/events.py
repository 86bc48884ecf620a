"""Kubernetes events, as `kubectl describe` shows them. They are sent once, without retries."""

import asyncio
import contextlib
import logging
import secrets
from datetime import UTC, datetime

from tests.cluster.client import TRANSIENT, ApiError, Client, Object
from tests.cluster.controllers.resource import EVENTS

log = logging.getLogger(__name__)

MOST_WAITING = 5000
"""Events beyond this many are dropped: they are for people, not for programs."""


class Events:
    """Writes events in the background, in the order in which they were recorded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(MOST_WAITING)

    def record(
        self, about: Object, component: str, reason: str, message: str, warning: bool = False
    ) -> None:
        """Tell `reason` and `message` about an object, in the name of a component of Kubernetes."""
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(_event(about, component, reason, message, warning))

    async def run(self) -> None:
        while True:
            event = await self._waiting.get()
            try:
                await self._client.create(EVENTS.path(event["metadata"]["namespace"]), event)
            except (ApiError, *TRANSIENT) as error:
                log.debug("event %s: %s", event["reason"], error)


def timestamp(moment: datetime | None = None) -> str:
    """A moment (default: now) as objects of Kubernetes hold it, to the second."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """Parse a Kubernetes timestamp."""
    return datetime.fromisoformat(text)


def _event(about: Object, component: str, reason: str, message: str, warning: bool) -> Object:
    meta = about["metadata"]
    namespace = meta.get("namespace", "default")
    now = timestamp()
    fields = {key: meta[key] for key in ("namespace", "name", "uid") if key in meta}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{secrets.token_hex(8)}", "namespace": namespace},
        "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], **fields},
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
