"""kopf's part: it watches, and passes on what it hears. It writes nothing to any object."""

import asyncio
import functools
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import kopf

from dreambooth_operator.controller.kube.kinds import WATCHED, Kind
from dreambooth_operator.controller.watch.informer import Informer

SILENCE_SECONDS = 90.0
"""The API server sends a bookmark every minute; a watch that is silent for longer is dead."""
REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 5.0
PAGE = 100
IDLE_SECONDS = 0.2
"""How long kopf keeps a task for an object that nothing is heard of."""
MAX_BACKOFF_SECONDS = 10.0


def registry(
    informer: Informer, server: str, client: aiohttp.ClientSession
) -> kopf.OperatorRegistry:
    """What kopf is to do: use this session, and tell of every change."""
    made = kopf.OperatorRegistry()

    @kopf.on.login(registry=made)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=server, aiohttp_session=client)

    for kind in WATCHED:
        kopf.on.event(*_selector(kind), registry=made)(functools.partial(_on_event, informer, kind))
    return made


def settings() -> kopf.OperatorSettings:
    """How kopf is to watch: no peering, no posting, no scanning, and giving up never."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.peering.standalone = True
    made.persistence.diffbase_storage = _Nothing()
    made.queueing.idle_timeout = IDLE_SECONDS
    made.networking.request_timeout = REQUEST_SECONDS
    made.networking.connect_timeout = CONNECT_SECONDS
    made.networking.error_backoffs = _Backoffs()
    made.watching.inactivity_timeout = SILENCE_SECONDS
    made.watching.connect_timeout = CONNECT_SECONDS
    made.watching.chunk_size = PAGE
    for kind in WATCHED:
        if kind.selector:
            made.watching.label_selectors[_selector(kind)] = kind.selector
    return made


async def end_watchers() -> None:
    """End kopf's watchers one by one, when it has given up because of one of them.

    kopf would cancel them together with the tasks that they wait for, and wait for ever.
    """
    watchers = {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for")}
    for task in watchers:
        task.cancel()
    if watchers:
        await asyncio.wait(watchers)


class _Backoffs:
    """Waits between attempts of a request, without end."""

    def __iter__(self) -> Iterator[float]:
        seconds = 1.0
        while True:
            yield seconds * random.uniform(0.5, 1.0)
            seconds = min(seconds * 2, MAX_BACKOFF_SECONDS)


class _Nothing(kopf.DiffBaseStorage):
    """Remembers no last state of objects: nobody asks for differences, and they cost time."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("kopf has nothing to store")


# kopf would run a plain function in a thread.
async def _on_event(informer: Informer, kind: Kind, /, event: kopf.RawEvent, **_: Any) -> None:
    informer.on_event(kind, event["type"], event["object"])


def _selector(kind: Kind) -> tuple[str, str, str]:
    """Group, version and plural, as kopf selects resources."""
    group, _, version = kind.api_version.rpartition("/")
    return group, version, kind.plural
