"""managedFields after an ordinary write: who changed a field owns it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.cluster.apiserver import fieldsets, metadata
from tests.cluster.apiserver.fieldsets import NONE, Fields, Path, Shape
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json

IGNORED = {
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            *("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName"),
            *("generation", "managedFields", "resourceVersion"),
            *("deletionTimestamp", "deletionGracePeriodSeconds", "generateName"),
        )
    ),
}
"""Fields without an owner."""


@dataclass(frozen=True)
class Manager:
    """One owner of fields, as identified in managedFields."""

    name: str
    operation: str
    subresource: str
    api_version: str
    time: str
    fields: Fields

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.name, self.operation, self.subresource


def managers(content: Json) -> list[Manager]:
    return [
        Manager(
            entry["manager"],
            entry["operation"],
            entry.get("subresource", ""),
            entry.get("apiVersion", ""),
            entry.get("time", ""),
            fieldsets.from_fields_v1(entry.get("fieldsV1", {})),
        )
        for entry in content.get("metadata", {}).get("managedFields") or []
    ]


def with_managers(content: Json, found: list[Manager]) -> Json:
    """An object with its owners written down; owners of nothing are left out."""
    owners = sorted((one for one in found if one.fields), key=_place)
    entries = [_entry(manager) for manager in owners]
    rest = {key: value for key, value in content["metadata"].items() if key != "managedFields"}
    return content | {"metadata": rest | ({"managedFields": entries} if entries else {})}


def _place(manager: Manager) -> tuple[str, str, str, str]:
    """Appliers first, then by time."""
    return manager.operation, manager.time, manager.name, manager.subresource


def _entry(manager: Manager) -> Json:
    return {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": manager.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldsets.to_fields_v1(manager.fields),
        **({"subresource": manager.subresource} if manager.subresource else {}),
    }


def changes(shape: Shape, old: Json, new: Json) -> dict[str, Fields]:
    """`added`, `modified` and `removed` fields of an object that can have an owner."""
    found: dict[str, set[Path]] = {"added": set(), "modified": set(), "removed": set()}
    for kind, path in fieldsets.differences(shape, _ownable(old), _ownable(new)):
        if path and path not in IGNORED:
            found[kind].add(path)
    return {kind: frozenset(paths) for kind, paths in found.items()}


def _ownable(content: Json) -> Json:
    hidden = {path[1][2:] for path in IGNORED if len(path) == 2}
    kept = {key: value for key, value in content.items() if key not in ("apiVersion", "kind")}
    inner = content.get("metadata", {}).items()
    return kept | {"metadata": {key: value for key, value in inner if key not in hidden}}


def after_update(call: ApiRequest, shape: Shape, old: Json, new: Json) -> Json:
    """The new state with managedFields: the writer owns the fields that it added or changed."""
    before = managers(old)
    changed = changes(shape, old, new)
    mine = changed["added"] | changed["modified"]
    if not mine and not changed["removed"]:
        return with_managers(new, before)
    identity = (call.manager, "Update", call.subresource)
    present = [manager for manager in before if manager.identity == identity]
    others = [
        replace(manager, fields=manager.fields - changed["removed"] - changed["modified"])
        for manager in before
        if manager.identity != identity
    ]
    kept = (present[0].fields if present else NONE) - changed["removed"]
    writer = Manager(*identity, call.resource.api_version, metadata.now(), kept | mine)
    return with_managers(new, [*others, writer])


def same(old: Json, new: Json) -> bool:
    """Whether two states differ in nothing but the times in managedFields."""
    return _unmanaged(old) == _unmanaged(new) and _owners(old) == _owners(new)


def _unmanaged(content: Json) -> Json:
    inner = content["metadata"].items()
    return content | {"metadata": {key: value for key, value in inner if key != "managedFields"}}


def _owners(content: Json) -> set[Manager]:
    return {replace(manager, time="") for manager in managers(content)}
