"""Tells the API server how a pod is: its status, its end and its events."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

from tests.cluster.client import TRANSIENT, ApiError, Client, Object
from tests.cluster.node.status import timestamp

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


class Reporter:
    """Reports on one pod. It goes on through outages, and never holds up the pod.

    Only the newest status is written: changes made while the API server is away are skipped.
    """

    def __init__(self, client: Client, pod: Object) -> None:
        metadata = pod["metadata"]
        self._client = client
        self._pod = pod
        self._uid = metadata["uid"]
        self._name = f"{metadata['namespace']}/{metadata['name']}"
        self._path = f"api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._newest: Object | None = None
        self._changed = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()
        self._events: set[asyncio.Task[None]] = set()

    def status(self, status: Object) -> None:
        """Have this status written as soon as may be."""
        if status != self._newest:
            self._newest = status
            self._told.clear()
            self._changed.set()

    def event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an event, once; it is lost when the API server is away."""
        task = asyncio.create_task(self._write_event(reason, message, warning))
        self._events.add(task)
        task.add_done_callback(self._events.discard)

    async def run(self) -> None:
        """Write statuses for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            status = self._newest
            body = {"metadata": {"uid": self._uid}, "status": status}
            await self._persistently(self._client.patch, f"{self._path}/status", body)
            if status == self._newest:
                self._told.set()

    async def flush(self) -> None:
        """Return once the newest status is known to the API server."""
        await self._told.wait()

    async def delete(self) -> None:
        """Let the pod's object go: nothing of it runs any more."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
        await self._persistently(self._client.delete, self._path, options)

    async def _persistently(
        self, call: Callable[[str, Object], Awaitable[Object]], path: str, body: Object
    ) -> None:
        """Make a call until it is answered. A pod that has gone, or was replaced, is done with."""
        while True:
            try:
                await call(path, body)
                return
            except TRANSIENT as error:
                log.warning("%s: %s", self._name, error)
            except ApiError as error:
                if not error.transient:
                    if error.code not in (404, 409):
                        log.error("%s: %s", self._name, error)
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def _write_event(self, reason: str, message: str, warning: bool) -> None:
        metadata = self._pod["metadata"]
        now = timestamp()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{metadata['name']}.{secrets.token_hex(8)}",
                "namespace": metadata["namespace"],
            },
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": self._uid,
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "kubelet", "host": self._pod["spec"]["nodeName"]},
            "reportingComponent": "kubelet",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._client.create(f"api/v1/namespaces/{metadata['namespace']}/events", event)
        except (ApiError, *TRANSIENT) as error:
            log.warning("%s: event %s: %s", self._name, reason, error)
