"""The garbage collector: what belongs to an owner goes when its owner does."""

import asyncio
import logging
from functools import partial
from typing import NamedTuple

from tests.cluster.client import TRANSIENT, ApiError, Client, Object, tolerate
from tests.cluster.controllers.discovery import discover
from tests.cluster.controllers.informer import Gone, Informer, Informers, owner_uids
from tests.cluster.controllers.queue import Queue
from tests.cluster.controllers.resource import CRDS, JSON_PATCH, NOT_FOUND, Resource

log = logging.getLogger(__name__)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"

DISCOVERY_SECONDS = 30
UNSURE_SECONDS = 1.0


class Item(NamedTuple):
    """An object to look at."""

    resource: Resource
    namespace: str
    name: str
    uid: str


class GarbageCollector:
    """Follows the metadata of every kind that the server has.

    An object goes when none of its owners exists. An owner deleted in the foreground stays until
    its dependents with `blockOwnerDeletion` are gone; one deleted with `orphan` lets them be.
    """

    def __init__(self, client: Client, informers: Informers) -> None:
        self._client = client
        self._informers = informers
        self._followed: dict[Resource, Informer] = {}
        self._by_kind: dict[tuple[str, str], Resource] = {}
        self._absent = Gone()
        self._kinds_changed = asyncio.Event()
        self.queue: Queue[Item] = Queue(self._sync, workers=16)

    @property
    def followed(self) -> list[Resource]:
        """The kinds that are followed now."""
        return list(self._followed)

    async def run(self) -> None:
        """Work for ever."""
        self._informers.of(CRDS).subscribe(lambda old, new: self._kinds_changed.set())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self.queue.run())

    async def _follow(self) -> None:
        while True:
            try:
                await self._follow_what_is_served()
            except (ApiError, *TRANSIENT) as error:
                log.warning("discovery: %s", error or type(error).__name__)
                await asyncio.sleep(1)
                continue
            try:
                await asyncio.wait_for(self._kinds_changed.wait(), DISCOVERY_SECONDS)
                await asyncio.sleep(0.2)  # a new kind is served a moment after its definition
            except TimeoutError:
                pass
            self._kinds_changed.clear()

    async def _follow_what_is_served(self) -> None:
        served, self._by_kind = await discover(self._client)
        for resource in set(self._followed) - set(served):
            del self._followed[resource]
            self._informers.drop(resource)
        new = [resource for resource in served if resource not in self._followed]
        informers = {r: self._informers.of(r, metadata_only=True) for r in new}
        await self._informers.synced(new)
        self._followed |= informers
        for resource, informer in informers.items():
            informer.subscribe(partial(self._about, resource))

    def _about(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._absent.add(old["metadata"]["uid"])
            self._look_at_dependents(old)
            self._look_at_owners(old)
        elif old is None or _relevant(old) != _relevant(new):
            if new["metadata"].get("ownerReferences") or "deletionTimestamp" in new["metadata"]:
                self.queue.add(_item(resource, new))
            if old is not None:
                self._look_at_owners(old)

    def _look_at_dependents(self, owner: Object) -> None:
        for resource, dependent in self._dependents(owner):
            self.queue.add(_item(resource, dependent))

    def _look_at_owners(self, dependent: Object) -> None:
        """Owners may wait for this dependent to be gone."""
        for reference in dependent["metadata"].get("ownerReferences") or []:
            owner = self._known_owner(dependent, reference)
            if owner and "deletionTimestamp" in owner["metadata"]:
                self.queue.add(_item(self._kind(reference), owner))

    def _dependents(self, owner: Object) -> list[tuple[Resource, Object]]:
        uid = owner["metadata"]["uid"]
        return [(r, item) for r, known in self._followed.items() for item in known.owned_by(uid)]

    def _kind(self, reference: Object) -> Resource | None:
        return self._by_kind.get((reference["apiVersion"], reference["kind"]))

    def _known_owner(self, dependent: Object, reference: Object) -> Object | None:
        resource = self._kind(reference)
        informer = resource and self._followed.get(resource)
        if not resource or not informer:
            return None
        owner = informer.get(_namespace(resource, dependent), reference["name"])
        return owner if owner and owner["metadata"]["uid"] == reference["uid"] else None

    async def _sync(self, item: Item) -> float | None:
        informer = self._followed.get(item.resource)
        known = informer.get(item.namespace, item.name) if informer else None
        if known is None or known["metadata"]["uid"] != item.uid:
            return None
        finalizers = known["metadata"].get("finalizers") or []
        if "deletionTimestamp" in known["metadata"]:
            if ORPHAN in finalizers:
                await self._orphan_dependents(known)
                await self._remove(item, known, "finalizers", [finalizers.index(ORPHAN)])
            elif FOREGROUND in finalizers:
                await self._delete_dependents(item, known)
            return None
        return await self._collect(item, known)

    async def _orphan_dependents(self, owner: Object) -> None:
        for resource, dependent in self._dependents(owner):
            places = _references_to(dependent, {owner["metadata"]["uid"]})
            await self._remove(_item(resource, dependent), dependent, "ownerReferences", places)

    async def _delete_dependents(self, item: Item, owner: Object) -> None:
        dependents = self._dependents(owner)
        if not any(_blocks(dependent, item.uid) for _, dependent in dependents):
            place = owner["metadata"]["finalizers"].index(FOREGROUND)
            await self._remove(item, owner, "finalizers", [place])
        for resource, dependent in dependents:
            if "deletionTimestamp" not in dependent["metadata"]:
                self.queue.add(_item(resource, dependent))

    async def _collect(self, item: Item, known: Object) -> float | None:
        """Delete an object without owners; the seconds after which to look again, if unsure."""
        references = known["metadata"].get("ownerReferences") or []
        if any(self._is_unsure(reference) for reference in references):
            return UNSURE_SECONDS
        gone, waiting, solid = set(), set(), False
        for reference in references:
            owner = await self._owner(known, reference)
            if owner is None:
                gone.add(reference["uid"])
            elif _waits_for_dependents(owner):
                waiting.add(reference["uid"])
            else:
                solid = True
        if solid and gone | waiting:
            places = _references_to(known, gone | waiting)
            await self._remove(item, known, "ownerReferences", places)
        elif not solid and gone | waiting:
            foreground = bool(waiting and self._dependents(known))
            await self._delete(item, known, foreground)
        return None

    def _is_unsure(self, reference: Object) -> bool:
        """Whether the owner may exist though its kind is not known, or not known yet."""
        return self._kind(reference) is None and reference["uid"] not in self._absent

    async def _owner(self, dependent: Object, reference: Object) -> Object | None:
        """The owner that a reference names; None when it is gone for sure."""
        if reference["uid"] in self._absent:
            return None
        if owner := self._known_owner(dependent, reference):
            return owner
        resource = self._by_kind[reference["apiVersion"], reference["kind"]]
        owner = None
        with tolerate(NOT_FOUND):
            path = resource.path(_namespace(resource, dependent), reference["name"])
            owner = await self._client.get(path)
        if owner and owner["metadata"]["uid"] == reference["uid"]:
            return owner
        self._absent.add(reference["uid"])
        return None

    async def _delete(self, item: Item, known: Object, foreground: bool) -> None:
        meta = known["metadata"]
        policy = "Orphan" if ORPHAN in meta.get("finalizers", []) else "Background"
        if foreground or FOREGROUND in meta.get("finalizers", []):
            policy = "Foreground"
        preconditions = {"uid": item.uid, "resourceVersion": meta["resourceVersion"]}
        options = {"propagationPolicy": policy, "preconditions": preconditions}
        with tolerate(NOT_FOUND):
            await self._client.delete(item.resource.path_of(known), options)

    async def _remove(self, item: Item, known: Object, field: str, places: list[int]) -> None:
        """Remove entries of a list in the metadata, if they are still what they were."""
        path = f"/metadata/{field}"
        patch = [{"op": "test", "path": "/metadata/uid", "value": item.uid}]
        for place in sorted(places, reverse=True):
            entry = known["metadata"][field][place]
            patch.append({"op": "test", "path": f"{path}/{place}", "value": entry})
            patch.append({"op": "remove", "path": f"{path}/{place}"})
        with tolerate(NOT_FOUND):
            await self._client.patch(item.resource.path_of(known), patch, JSON_PATCH)


def _relevant(object_: Object) -> tuple[object, ...]:
    """What of an object the collector goes by."""
    meta = object_["metadata"]
    return tuple(meta.get(k) for k in ("ownerReferences", "finalizers", "deletionTimestamp"))


def _item(resource: Resource | None, object_: Object) -> Item:
    assert resource is not None
    meta = object_["metadata"]
    return Item(resource, meta.get("namespace", ""), meta["name"], meta["uid"])


def _namespace(owner: Resource, dependent: Object) -> str:
    """Where to look for an owner: beside its dependent, unless it is in no namespace."""
    return dependent["metadata"].get("namespace", "") if owner.namespaced else ""


def _references_to(dependent: Object, uids: set[str]) -> list[int]:
    return [place for place, uid in enumerate(owner_uids(dependent)) if uid in uids]


def _blocks(dependent: Object, uid: str) -> bool:
    references = dependent["metadata"].get("ownerReferences") or []
    return any(r["uid"] == uid and r.get("blockOwnerDeletion") for r in references)


def _waits_for_dependents(owner: Object) -> bool:
    meta = owner["metadata"]
    return "deletionTimestamp" in meta and FOREGROUND in (meta.get("finalizers") or [])
