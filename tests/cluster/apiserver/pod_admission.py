"""What admission refuses a new pod for: a ServiceAccount that is missing, and quotas.

The words are those of the real server, which the Job controller repeats in its events. A missing
PriorityClass is refused in `strategies`, where its value is looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.cluster.apiserver.errors import forbidden
from tests.cluster.apiserver.resources import Json
from tests.cluster.apiserver.store import Store
from tests.cluster.controllers.fit import quantity

COMPUTE = ("cpu", "memory")
"""Once a quota limits one of these, every container has to say how much of it it needs."""


def check_new_pod(store: Store, pod: Json) -> None:
    """Raise 403 for a pod that its ServiceAccount or a ResourceQuota of its namespace forbids."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    account = pod["spec"].get("serviceAccountName", "default")
    accounts = {one["metadata"]["name"] for one in _of(store, "serviceaccounts", namespace)}
    if account not in accounts | {"default"}:
        missing = f'serviceaccount "{account}" not found'
        why = f"error looking up service account {namespace}/{account}: {missing}"
        raise forbidden("pods", name, why)
    others = [one for one in _of(store, "pods", namespace) if not _ended(one)]
    for quota in _of(store, "resourcequotas", namespace):
        if why := _refusal(quota, pod, others):
            raise forbidden("pods", name, why)


def _refusal(quota: Json, pod: Json, others: Iterable[Json]) -> str:
    name, hard = quota["metadata"]["name"], quota["spec"].get("hard") or {}
    unset = [
        f"{key} for: {','.join(names)}" for key in sorted(hard) if (names := _lacking(key, pod))
    ]
    if unset:
        return f"failed quota: {name}: must specify {'; '.join(unset)}"
    used = Counter[str]()
    for other in others:
        used.update({key: _usage(key, other) for key in hard})
    asked = {key: _usage(key, pod) for key in sorted(hard)}
    over = [key for key, n in asked.items() if n and used[key] + n > quantity(hard[key])]
    if not over:
        return ""
    parts = {
        "requested": [f"{key}={_text(asked[key])}" for key in over],
        "used": [f"{key}={_text(used[key])}" for key in over],
        "limited": [f"{key}={hard[key]}" for key in over],
    }
    amounts = ", ".join(f"{word}: {','.join(listed)}" for word, listed in parts.items())
    return f"exceeded quota: {name}, {amounts}"


def _lacking(key: str, pod: Json) -> list[str]:
    """The containers that do not say how much they need of a compute resource of a quota."""
    kind, _, resource = key.rpartition(".")
    if resource not in COMPUTE or kind not in ("", "requests", "limits"):
        return []
    containers = pod["spec"]["containers"]
    return sorted(one["name"] for one in containers if resource not in _amounts(kind, one))


def _usage(key: str, pod: Json) -> int:
    """How much of a quota's resource a pod takes, in thousandths."""
    if key in ("pods", "count/pods"):
        return 1000
    kind, _, resource = key.partition(".") if "." in key else ("requests", "", key)
    amounts = [_amounts(kind, one).get(resource, 0) for one in pod["spec"]["containers"]]
    return sum(quantity(amount) for amount in amounts)


def _amounts(kind: str, container: Json) -> Json:
    resources = container.get("resources") or {}
    limits: Json = resources.get("limits") or {}
    return limits if kind == "limits" else limits | (resources.get("requests") or {})


def _text(thousandths: int) -> str:
    """An amount as Kubernetes prints it: 500m, 3, 2Gi."""
    if thousandths % 1000:
        return f"{thousandths}m"
    value = thousandths // 1000
    for power, letter in ((3, "Gi"), (2, "Mi"), (1, "Ki")):
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{letter}"
    return str(value)


def _of(store: Store, qualified: str, namespace: str) -> list[Json]:
    contents = [stored.content for stored in store.named(qualified)]
    return [one for one in contents if one["metadata"].get("namespace") == namespace]


def _ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
