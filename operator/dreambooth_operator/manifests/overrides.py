"""Merges `spec.runtime.podOverrides`, a user's parts of a PodTemplateSpec, over the operator's.

Objects are merged field by field. Lists with a key are merged item by item: an item with a known
key takes the place of the operator's, or is merged with it where it is a container; the others are
appended. Every other list replaces the operator's. The API decides what may be overridden at all.
"""

from typing import Any

from dreambooth_operator.manifests import names

Tree = dict[str, Any]

MERGE_KEYS = {
    "claims": "name",
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
MERGED_ITEMS = {"containers"}
"""Items of the other lists are unions (value or valueFrom, emptyDir or hostPath): a merge would
hold both."""


def merged(base: Tree, over: Tree) -> Tree:
    """Return `base` with `over` merged over it; neither is changed (core/v1 PodTemplateSpec)."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = merged(old, value)
        elif isinstance(old, list) and key in MERGE_KEYS:
            result[key] = _merged_list(key, old, value)
        else:
            result[key] = value
    return result


def without_devices(overrides: Tree) -> Tree:
    """Return the overrides for a pod without devices: no resources, no claims (core/v1 PodSpec)."""
    spec = {
        key: value for key, value in overrides.get("spec", {}).items() if key != "resourceClaims"
    }
    for kind in ("containers", "initContainers"):
        if kind in spec:
            spec[kind] = [_without_claims(container) for container in spec[kind]]
    return overrides | {"spec": spec} if spec else overrides


def _without_claims(container: Tree) -> Tree:
    """Return a container without resource claims, and the trainer's without any resources."""
    resources = {k: v for k, v in container.get("resources", {}).items() if k != "claims"}
    rest = {key: value for key, value in container.items() if key != "resources"}
    is_trainer = container["name"] == names.TRAINER
    return rest if is_trainer or not resources else rest | {"resources": resources}


def _merged_list(field: str, base: list[Tree], over: list[Tree]) -> list[Tree]:
    """Items with the same key become one, at the place of the first; the others are appended."""
    key = MERGE_KEYS[field]
    # A dictionary keeps its order: an item that is replaced stays at its place.
    items = {item[key]: item for item in base}
    for item in over:
        old = items.get(item[key])
        items[item[key]] = merged(old, item) if old and field in MERGED_ITEMS else item
    return list(items.values())
