"""kopf's part: it watches, passes events on to the informer, and writes to no object."""

import asyncio
import functools
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import kopf

from dreambooth_operator.controller.kube.client import PAGE
from dreambooth_operator.controller.kube.kinds import WATCHED, Kind
from dreambooth_operator.controller.watch.informer import Informer

INACTIVITY_SECONDS = 90.0
"""The API server sends a bookmark every minute; a watch that is silent for longer is dead."""
# The same limits as those of this project's own client.
REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 5.0
IDLE_SECONDS = 0.2
"""How long kopf keeps a task for an object without events."""
MAX_BACKOFF_SECONDS = 10.0


def registry(
    informer: Informer, server: str, client: aiohttp.ClientSession
) -> kopf.OperatorRegistry:
    """Make kopf's handlers: use this session, and pass every event on.

    Only event handlers: create, update and delete handlers write annotations and finalizers, and a
    finalizer blocks deletion while the operator is down (meta/v1 ObjectMeta).
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        # The session authenticates by itself, and reads rotated tokens again; kopf's login would
        # not.
        return kopf.AiohttpSession(server=server, aiohttp_session=client)

    for kind in WATCHED:
        handler = functools.partial(_on_event, informer, kind)
        kopf.on.event(*_selector(kind), registry=handlers)(handler)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Make kopf's settings: no peering, posting or scanning, and retries without end.

    Time-outs are in seconds.
    """
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    # Scanning lists CRDs and namespaces, for which the operator has no permission.
    chosen.scanning.disabled = True
    # A Lease elects the leader; kopf's peering does not exclude two at a time.
    chosen.peering.standalone = True
    chosen.persistence.diffbase_storage = _NoDiffBase()
    chosen.queueing.idle_timeout = IDLE_SECONDS
    chosen.networking.request_timeout = REQUEST_SECONDS
    chosen.networking.connect_timeout = CONNECT_SECONDS
    chosen.networking.error_backoffs = _Backoffs()
    chosen.watching.inactivity_timeout = INACTIVITY_SECONDS
    chosen.watching.connect_timeout = CONNECT_SECONDS
    chosen.watching.chunk_size = PAGE
    for kind in WATCHED:
        if kind.selector:
            chosen.watching.label_selectors[_selector(kind)] = kind.selector
    return chosen


async def cancel_watchers() -> None:
    """Cancel kopf's watchers one by one, after it has given up because of one of them.

    kopf would cancel them together with the tasks that they wait for, and then wait for ever.
    """
    # kopf hands out no list of these tasks: their names are all there is.
    watchers = {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for")}
    for task in watchers:
        task.cancel()
    if watchers:
        await asyncio.wait(watchers)


class _Backoffs:
    """Endless waits between attempts of a request, in seconds: exponential, with jitter."""

    def __iter__(self) -> Iterator[float]:
        seconds = 1.0
        while True:
            yield seconds * random.uniform(0.5, 1.0)
            seconds = min(seconds * 2, MAX_BACKOFF_SECONDS)


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last state of objects: no handler needs differences, and they cost time."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("kopf has nothing to store")


# A coroutine, as kopf would run a plain function in a thread.
async def _on_event(informer: Informer, kind: Kind, /, event: kopf.RawEvent, **_: Any) -> None:
    informer.on_event(kind, event["type"], event["object"])


def _selector(kind: Kind) -> tuple[str, str, str]:
    """Group, version and plural, as kopf selects resources."""
    group, _, version = kind.api_version.rpartition("/")
    return group, version, kind.plural
