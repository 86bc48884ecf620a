"""The forms of an answer: whole objects, or their metadata alone. Tables are a third."""

from __future__ import annotations

import json
from typing import Protocol

from tests.cluster.apiserver.resources import Json, Resource
from tests.cluster.apiserver.store import Stored, encode


class Representation(Protocol):
    """How a client wants objects to be shown."""

    def one(self, resource: Resource, stored: Stored) -> bytes:
        """An object's JSON."""

    def many(self, resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
        """A list's JSON."""


class FullObject:
    """Objects as they are."""

    def one(self, _: Resource, stored: Stored) -> bytes:
        return stored.encoded

    def many(self, resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
        """The items of a built-in list do not say what they are; the list does."""
        kind, version = resource.list_kind or f"{resource.kind}List", resource.api_version
        items = [one.encoded for one in page]
        if not resource.custom:
            known = f'{{"kind":"{resource.kind}","apiVersion":"{version}",'.encode()
            items = [b"{" + item.removeprefix(known).removeprefix(b"{") for item in items]
        else:
            metadata = {"continue": "", **metadata}
        return joined({"kind": kind, "apiVersion": version, "metadata": metadata}, items)


class MetadataOnly:
    """Objects as PartialObjectMetadata: what garbage collectors watch."""

    KIND = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}

    def one(self, _: Resource, stored: Stored) -> bytes:
        return encode({**self.KIND, "metadata": stored.content["metadata"]})

    def many(self, resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
        head = {**self.KIND, "kind": "PartialObjectMetadataList", "metadata": metadata}
        return joined(head, [self.one(resource, one) for one in page])


def joined(head: Json, items: list[bytes]) -> bytes:
    """A list from its head and the JSON of its items."""
    return json.dumps(head).encode()[:-1] + b',"items":[' + b",".join(items) + b"]}"
