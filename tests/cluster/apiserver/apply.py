"""Server-side apply: merge what a manager applies, and remove what it no longer does.

After sigs.k8s.io/structured-merge-diff: the live and the applied object are merged. Fields that the
manager applied before and no other manager owns are pruned. A change to a field of another manager
is a conflict.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.cluster.apiserver import fieldsets, managed_fields, metadata
from tests.cluster.apiserver.errors import ApiError
from tests.cluster.apiserver.fieldsets import NONE, Fields, Path, Shape
from tests.cluster.apiserver.managed_fields import Manager
from tests.cluster.apiserver.requests import ApiRequest
from tests.cluster.apiserver.resources import Json


def merged(call: ApiRequest, shape: Shape, old: Json, applied: Json) -> Json:
    """The live object with what is applied; raises 409 for what others own, unless forced."""
    mine = applied_fields(call, shape, applied)
    before = _previous(call, old)
    others = [manager for manager in managed_fields.managers(old) if not _is_applier(call, manager)]
    result: Json = _merge(shape, old, _endpoint_part(call, applied))
    kept = mine.union(*(manager.fields for manager in others))
    held = fieldsets.with_prefixes(kept)
    for path in sorted(before - mine, key=len):  # an item before what it is known by
        if path not in held:
            _remove(shape, result, path, held)
    if not call.flag("force"):
        _check_conflicts(shape, old, result, others)
    return result


def after_apply(call: ApiRequest, shape: Shape, old: Json, new: Json, applied: Json) -> Json:
    """The new state with its owners: the applier owns just what it applied."""
    changed = managed_fields.changes(shape, old, new)
    taken = changed["modified"] | changed["added"]
    others = [
        replace(manager, fields=manager.fields - taken - changed["removed"])
        for manager in managed_fields.managers(old)
        if not _is_applier(call, manager)
    ]
    return _with_applier(call, shape, others, new, applied, old)


def for_new(call: ApiRequest, shape: Shape, new: Json, applied: Json) -> Json:
    """A new object, owned by its applier."""
    return _with_applier(call, shape, [], new, applied, {})


def _with_applier(
    call: ApiRequest, shape: Shape, others: list[Manager], new: Json, applied: Json, old: Json
) -> Json:
    mine = applied_fields(call, shape, applied)
    version, time = call.resource.api_version, metadata.now()
    if mine == _previous(call, old) and old.get("spec") == new.get("spec"):
        time = next(
            manager.time for manager in managed_fields.managers(old) if _is_applier(call, manager)
        )
    applier = Manager(call.manager, "Apply", call.subresource, version, time, mine)
    return managed_fields.with_managers(new, [applier, *others])


def applied_fields(call: ApiRequest, shape: Shape, applied: Json) -> Fields:
    """The fields that an applied object names, on the endpoint that it is applied to."""
    part = _endpoint_part(call, applied)
    return frozenset(
        path for path in fieldsets.fields_of(shape, part) if path not in managed_fields.IGNORED
    )


def _endpoint_part(call: ApiRequest, applied: Json) -> Json:
    """What the endpoint writes: the status alone, or all but the status."""
    if call.subresource == "status":
        return {key: applied[key] for key in ("status",) if key in applied}
    if call.resource.status:
        return {key: value for key, value in applied.items() if key != "status"}
    return applied


def _is_applier(call: ApiRequest, manager: Manager) -> bool:
    return manager.identity == (call.manager, "Apply", call.subresource)


def _previous(call: ApiRequest, old: Json) -> Fields:
    fields = [
        manager.fields for manager in managed_fields.managers(old) if _is_applier(call, manager)
    ]
    return fields[0] if fields else NONE


def _merge(shape: Shape, live: Any, applied: Any) -> Any:
    """Live and applied value in one; a new value that shares nothing with either."""
    if live is None or type(live) is not type(applied) or shape.is_atomic(applied):
        return deepcopy(applied)
    if isinstance(applied, dict):
        changed = {
            key: _merge(shape.field(key), live.get(key), value) for key, value in applied.items()
        }
        return {**deepcopy(live), **changed}
    return _merge_items(shape, live, applied)


def _merge_items(shape: Shape, live: list[Any], applied: list[Any]) -> list[Any]:
    """Items in the applied order; those that are only live stay before what they stood before."""
    present = {shape.element(item): item for item in live}
    wanted = {shape.element(item): item for item in applied}
    waiting = list(present)
    result = []
    for element, item in wanted.items():
        while element in present and waiting and waiting[0] != element:
            first = waiting.pop(0)
            if first not in wanted:
                result.append(deepcopy(present[first]))
        if waiting and waiting[0] == element:
            waiting.pop(0)
        result.append(_merge(shape.item(), present.get(element), item))
    return result + [deepcopy(present[one]) for one in waiting if one not in wanted]


def _remove(shape: Shape, content: Json, path: Path, held: set[Path]) -> None:
    """Remove the field at a path, and the empty containers above it without an owner."""
    trail: list[tuple[Any, Any]] = []
    node: Any = content
    for element in path:
        place = _place(shape, node, element)
        if place is None:
            return
        trail.append((node, place))
        shape = shape.field(place) if isinstance(place, str) else shape.item()
        node = node[place]
    for length in range(len(path), 0, -1):
        container, place = trail[length - 1]
        if length < len(path) and (container[place] or path[:length] in held):
            return
        del container[place]


def _place(shape: Shape, node: Any, element: str) -> Any:
    """The key or index that a path element stands for; None where there is none."""
    if isinstance(node, dict):
        name = element.removeprefix("f:")
        return name if name in node else None
    if isinstance(node, list):
        indices = [i for i, item in enumerate(node) if shape.element(item) == element]
        return indices[0] if indices else None
    return None


def _check_conflicts(shape: Shape, old: Json, new: Json, others: list[Manager]) -> None:
    changed = managed_fields.changes(shape, old, new)
    touched = changed["added"] | changed["modified"]
    conflicts = [
        (manager, path)
        for manager in others
        for path in sorted(touched & manager.fields, key=fieldsets.rank)
    ]
    if conflicts:
        raise _conflict(conflicts)


def _conflict(conflicts: list[tuple[Manager, Path]]) -> ApiError:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {_named(manager)}",
            "field": fieldsets.dotted(path),
        }
        for manager, path in conflicts
    ]
    if len(conflicts) == 1:
        words = f"1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        lines = []
        for name in dict.fromkeys(_named(manager) for manager, _ in conflicts):
            lines.append(f"conflicts with {name}:")
            paths = [path for manager, path in conflicts if _named(manager) == name]
            lines += [f"- {fieldsets.dotted(path)}" for path in paths]
        words = f"{len(conflicts)} conflicts: " + "\n".join(lines)
    return ApiError(409, "Conflict", f"Apply failed with {words}", {"causes": causes})


def _named(manager: Manager) -> str:
    words = f'"{manager.name}"'
    if manager.subresource:
        words += f' with subresource "{manager.subresource}"'
    if manager.operation == "Update":
        words += f" using {manager.api_version}"
    return words
