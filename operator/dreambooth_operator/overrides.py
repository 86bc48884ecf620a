"""`spec.runtime.podOverrides`: a user's parts of a PodTemplateSpec, merged over the operator's.

Objects are merged field by field. Containers are merged by name; their env and the volumes are
replaced by name, volume mounts by path. Every other list replaces the operator's. What the operator
relies on is refused.
"""

from collections.abc import Iterator
from typing import Any

from dreambooth_operator.errors import InvalidOverride

Tree = dict[str, Any]

PATH = "spec.runtime.podOverrides"
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
REPLACED_WHOLE = {"env", "volumes", "volumeMounts"}
"""Items of these are unions (value or valueFrom, emptyDir or hostPath): a merge would hold both."""

PARTS = {"metadata", "spec"}
METADATA_PARTS = {"labels", "annotations"}
RESERVED_SPEC = {"restartPolicy", "hostname", "subdomain", "terminationGracePeriodSeconds"}
RESERVED_LABELS = (
    "dreambooth.dev/",
    "app.kubernetes.io/",
    "batch.kubernetes.io/",
    "kueue.x-k8s.io/",
)
RESERVED_ENV_PREFIXES = ("PET_", "DREAMBOOTH_")
RESERVED_ENV = {
    *("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("JOB_COMPLETION_INDEX", "POD_NAME", "POD_NAMESPACE", "POD_IP", "NODE_NAME"),
}


def merged(template: Tree, overrides: Tree) -> Tree:
    """The template with the overrides merged over it; raises `InvalidOverride`."""
    problems = list(_problems(overrides))
    if problems:
        raise InvalidOverride("\n".join(problems))
    return _merge(template, overrides)


def _merge(base: Tree, over: Tree) -> Tree:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list) and key in MERGE_KEYS:
            result[key] = _merge_list(key, old, value)
        else:
            result[key] = value
    return result


def _merge_list(field: str, base: list[Tree], over: list[Tree]) -> list[Tree]:
    """Items with the same key become one, at the place of the first; the others are appended."""
    key = MERGE_KEYS[field]
    items = {item[key]: item for item in base}
    for item in over:
        old = items.get(item[key])
        items[item[key]] = item if old is None or field in REPLACED_WHOLE else _merge(old, item)
    return list(items.values())


def _problems(overrides: Tree) -> Iterator[str]:
    """Each thing wrong with the overrides, as a sentence."""
    yield from _shape_problems(PATH, overrides, objects=PARTS)
    for key in overrides.keys() - PARTS:
        yield f"{PATH}.{key}: not a part that can be overridden; use metadata or spec"
    meta = _object(overrides, "metadata")
    yield from _shape_problems(f"{PATH}.metadata", meta, objects=METADATA_PARTS)
    for key in meta.keys() - METADATA_PARTS:
        yield f"{PATH}.metadata.{key}: not a part that can be overridden; use labels or annotations"
    for key in _object(meta, "labels"):
        if key.startswith(RESERVED_LABELS):
            yield f"{PATH}.metadata.labels: {key} is set by the operator; remove it"
    spec = _object(overrides, "spec")
    for key in sorted(RESERVED_SPEC & spec.keys()):
        yield f"{PATH}.spec.{key}: set by the operator; remove it"
    yield from _list_problems(f"{PATH}.spec", spec)


def _shape_problems(path: str, tree: Tree, objects: set[str]) -> Iterator[str]:
    for key in sorted(objects & tree.keys()):
        if not isinstance(tree[key], dict):
            yield f"{path}.{key}: must be an object"


def _list_problems(path: str, tree: Tree) -> Iterator[str]:
    """Lists that cannot be merged, and environment variables that the operator sets."""
    for field, key in MERGE_KEYS.items():
        items = tree.get(field, [])
        if not isinstance(items, list):
            yield f"{path}.{field}: must be a list"
            continue
        for index, item in enumerate(items):
            yield from _item_problems(f"{path}.{field}[{index}]", field, key, item)


def _item_problems(path: str, field: str, key: str, item: Any) -> Iterator[str]:
    if not isinstance(item, dict) or not isinstance(item.get(key), str):
        yield f"{path}: needs a {key}"
    elif field == "env" and _reserved(item["name"]):
        yield f"{path}: {item['name']} is set by the operator; remove it"
    elif field in ("containers", "initContainers"):
        yield from _list_problems(path, item)


def _reserved(name: str) -> bool:
    return name in RESERVED_ENV or name.startswith(RESERVED_ENV_PREFIXES)


def _object(tree: Tree, key: str) -> Tree:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}
