"""What the server holds, kept up to date here: a list, then a watch, for every kind of object."""

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable

from tests.cluster.client import TRANSIENT, ApiError, Client, Object
from tests.cluster.controllers.resource import GONE, Resource

log = logging.getLogger(__name__)

Handler = Callable[[Object | None, Object | None], None]
"""Called with an object as it was (None: it is new) and as it is (None: it is gone)."""

FIRST_PAUSE = 0.1
"""Seconds until a failed list is tried again; doubled each time, up to five seconds."""

GONE_MOST = 20_000

METADATA_ONLY = "application/json;as={};g=meta.k8s.io;v=v1,application/json"


class Gone:
    """The uids of the latest objects that are gone for ever."""

    def __init__(self) -> None:
        self._uids: OrderedDict[str, None] = OrderedDict()

    def add(self, uid: str) -> None:
        self._uids[uid] = None
        if len(self._uids) > GONE_MOST:
            self._uids.popitem(last=False)

    def __contains__(self, uid: str) -> bool:
        return uid in self._uids


class Informer:
    """The objects of one kind, by (namespace, name) and by the uids of their owners.

    What the controllers themselves write is put in at once (`put`): a controller never acts twice
    because its own write has not come back yet. Older news than what is known are dropped.
    """

    def __init__(self, client: Client, resource: Resource, metadata_only: bool = False) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self._client = client
        self._metadata_only = metadata_only
        self._objects: dict[tuple[str, str], Object] = {}
        self._owned: dict[str, dict[str, Object]] = defaultdict(dict)
        self._handlers: list[Handler] = []
        self._gone = Gone()

    def subscribe(self, handler: Handler) -> None:
        """Call `handler` for every change from now on, and for every object that is known."""
        self._handlers.append(handler)
        for known in self.objects():
            handler(None, known)

    def objects(self) -> list[Object]:
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        return self._objects.get((namespace, name))

    def owned_by(self, uid: str) -> list[Object]:
        """The objects with an owner reference to `uid`."""
        return list(self._owned.get(uid, {}).values())

    def put(self, new: Object) -> None:
        """Take note of an object that the server answered with.

        The news that it is gone may have been faster than the answer to an earlier write.
        """
        if new["metadata"]["uid"] in self._gone:
            return
        old = self._objects.get(_key(new))
        if old is None or _version(old) < _version(new):
            self._change(old, new)

    def forget(self, gone: Object) -> None:
        """Take note that an object is gone."""
        self._gone.add(gone["metadata"]["uid"])
        old = self._objects.get(_key(gone))
        if old is not None and old["metadata"]["uid"] == gone["metadata"]["uid"]:
            self._change(old, None)

    async def run(self) -> None:
        """List and watch for ever; the server may come and go."""
        pause = FIRST_PAUSE
        while True:
            try:
                version = await self._list()
                pause = FIRST_PAUSE
                await self._watch(version)
            except (ApiError, *TRANSIENT) as error:
                if not (isinstance(error, ApiError) and error.code == GONE):
                    level = logging.WARNING if pause == FIRST_PAUSE else logging.DEBUG
                    log.log(level, "%s: %s", self.resource.plural, error or type(error).__name__)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 5)

    async def _list(self) -> str:
        accept = self._accept("PartialObjectMetadataList")
        answer = await self._client.get(self.resource.path(), accept=accept)
        items = [self._complete(item) for item in answer["items"] or []]
        listed = str(answer["metadata"]["resourceVersion"])
        kept = {item["metadata"]["uid"] for item in items}
        for old in self.objects():
            written_since = _version(old) > int(listed)
            if old["metadata"]["uid"] not in kept and not written_since:
                self.forget(old)
        for item in items:
            self.put(item)
        self.synced.set()
        return listed

    async def _watch(self, version: str) -> None:
        while True:
            events = self._client.watch(
                self.resource.path(),
                accept=self._accept("PartialObjectMetadata"),
                resourceVersion=version,
                allowWatchBookmarks="true",
            )
            async with contextlib.aclosing(events):
                async for event in events:
                    version = self._take(event["type"], event["object"])

    def _take(self, kind: str, object_: Object) -> str:
        """Note one event; the version up to which the server has been followed."""
        if kind == "DELETED":
            self.forget(object_)
        elif kind != "BOOKMARK":
            self.put(self._complete(object_))
        return str(object_["metadata"]["resourceVersion"])

    def _accept(self, kind: str) -> str:
        return METADATA_ONLY.format(kind) if self._metadata_only else "application/json"

    def _complete(self, item: Object) -> Object:
        """Add the kind and apiVersion, which items of a list lack."""
        kind = {"apiVersion": self.resource.api_version, "kind": self.resource.kind}
        return {**item, **kind, **({"spec": {}, "status": {}} if self._metadata_only else {})}

    def _change(self, old: Object | None, new: Object | None) -> None:
        if old is not None:
            del self._objects[_key(old)]
            for uid in owner_uids(old):
                self._owned[uid].pop(old["metadata"]["uid"], None)
                if not self._owned[uid]:
                    del self._owned[uid]
        if new is not None:
            self._objects[_key(new)] = new
            for uid in owner_uids(new):
                self._owned[uid][new["metadata"]["uid"]] = new
        for handler in self._handlers:
            handler(old, new)


class Informers:
    """One informer per kind, started when it is first asked for."""

    def __init__(self, client: Client, group: asyncio.TaskGroup) -> None:
        self._client = client
        self._group = group
        self._known: dict[Resource, Informer] = {}
        self._tasks: dict[Resource, asyncio.Task[None]] = {}

    def of(self, resource: Resource, metadata_only: bool = False) -> Informer:
        """The informer of a kind. `metadata_only` where nobody asked for whole objects before."""
        if resource not in self._known:
            informer = Informer(self._client, resource, metadata_only)
            self._known[resource] = informer
            self._tasks[resource] = self._group.create_task(informer.run())
        return self._known[resource]

    def drop(self, resource: Resource) -> None:
        """Stop watching a kind that is served no more."""
        del self._known[resource]
        self._tasks.pop(resource).cancel()

    async def synced(self, resources: Iterable[Resource]) -> None:
        """Wait until these kinds have been listed."""
        for resource in resources:
            await self._known[resource].synced.wait()


def owner_uids(object_: Object) -> list[str]:
    """The uids that an object's owner references name."""
    return [owner["uid"] for owner in object_["metadata"].get("ownerReferences") or []]


def _key(object_: Object) -> tuple[str, str]:
    meta = object_["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _version(object_: Object) -> int:
    return int(object_["metadata"]["resourceVersion"])
