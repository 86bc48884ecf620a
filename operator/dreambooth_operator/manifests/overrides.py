"""Merges `spec.runtime.podOverrides`, a user's parts of a PodTemplateSpec, over the operator's.

Objects are merged field by field. Containers are merged by name; their env and the volumes are
replaced by name, volume mounts by path. Every other list replaces the operator's. What a user may
override at all is the API's business.
"""

from typing import Any

Tree = dict[str, Any]

MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
REPLACED_WHOLE = {"env", "volumes", "volumeMounts"}
"""Items of these are unions (value or valueFrom, emptyDir or hostPath): a merge would hold both."""


def merged(base: Tree, over: Tree) -> Tree:
    """`base` with `over` merged over it; neither is changed."""
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


def _merged_list(field: str, base: list[Tree], over: list[Tree]) -> list[Tree]:
    """Items with the same key become one, at the place of the first; the others are appended."""
    key = MERGE_KEYS[field]
    items = {item[key]: item for item in base}
    for item in over:
        old = items.get(item.get(key))
        items[item.get(key)] = item if old is None or field in REPLACED_WHOLE else merged(old, item)
    return list(items.values())
