"""Objects as tables (meta.k8s.io/v1 Table): what `kubectl get` prints."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

from tests.cluster.apiserver.resources import Json, Resource
from tests.cluster.apiserver.store import Stored, encode

Row = Callable[[Json], list[Any]]


class Tables:
    """Answers in the form of tables."""

    def __init__(self, include: str = "Metadata") -> None:
        self._include = include
        """What of each object goes with its row: None, Metadata or Object."""

    def one(self, resource: Resource, stored: Stored) -> bytes:
        version = stored.content["metadata"]["resourceVersion"]
        return self.many(resource, {"resourceVersion": version}, [stored])

    def many(self, resource: Resource, metadata: Json, page: list[Stored]) -> bytes:
        columns, cells = _layout(resource)
        table = {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": [self._row(cells(one.content), one.content) for one in page],
        }
        return encode(table)

    def _row(self, cells: list[Any], content: Json) -> Json:
        if self._include == "None":
            return {"cells": cells, "object": None}
        if self._include == "Object":
            return {"cells": cells, "object": content}
        part = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": content["metadata"],
        }
        return {"cells": cells, "object": part}


def _column(name: str, kind: str = "string", *, wide: bool = False, **more: str) -> Json:
    return {
        "name": name,
        "type": kind,
        "format": more.get("format", ""),
        "description": more.get("description", ""),
        "priority": 1 if wide else 0,
    }


NAME = _column("Name", format="name")
AGE = _column("Age")


def _layout(resource: Resource) -> tuple[list[Json], Row]:
    if resource.custom:
        return _custom_layout(resource)
    columns, row = LAYOUTS.get(resource.qualified, ([AGE], lambda content: [age(content)]))
    if columns and columns[0]["name"] == "Last Seen":
        return columns, row
    return [NAME, *columns], lambda content: [content["metadata"]["name"], *row(content)]


def _custom_layout(resource: Resource) -> tuple[list[Json], Row]:
    """The columns of the CRD; those of type date show an age."""
    columns = [
        {
            "name": one["name"],
            "type": one["type"],
            "format": one.get("format", ""),
            "description": one.get("description", ""),
            "priority": one.get("priority", 0),
        }
        for one in resource.columns
    ]

    def row(content: Json) -> list[Any]:
        return [content["metadata"]["name"], *(_cell(one, content) for one in resource.columns)]

    if not resource.columns:
        return [NAME, AGE], lambda content: [content["metadata"]["name"], age(content)]
    return [NAME, *columns], row


def _cell(column: Json, content: Json) -> Any:
    value = at(content, column["jsonPath"])
    if column["type"] == "date":
        return since(value) if value else "<unknown>"
    if value is None:
        return None
    if column["type"] == "string" and isinstance(value, bool):
        return str(value).lower()
    return str(value) if column["type"] == "string" else value


def at(content: Any, path: str) -> Any:
    """What a JSONPath of names (`.status.phase`) and one filter by type leads to; None if nothing.

    `.status.conditions[?(@.type=="Ready")].status` is the one filter that is known.
    """
    for name, key, wanted in re.findall(r"\.(\w+)(?:\[\?\(@\.(\w+)==[\"'](.+?)[\"']\)\])?", path):
        content = content.get(name) if isinstance(content, dict) else None
        if key and content is not None:
            content = next((item for item in content if item.get(key) == wanted), None)
    return content


def since(text: str) -> str:
    """How long ago a time was, as kubectl prints it: 45s, 3m12s, 5h, 2d."""
    moment = dt.datetime.fromisoformat(text)
    return duration((dt.datetime.now(dt.UTC) - moment).total_seconds())


def duration(seconds: float) -> str:
    """apimachinery's HumanDuration."""
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < -1:
        return "<invalid>"
    if whole < 120:
        return f"{max(whole, 0)}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def age(content: Json) -> str:
    return since(content["metadata"]["creationTimestamp"])


def _pod(content: Json) -> list[Any]:
    status = content.get("status") or {}
    statuses = status.get("containerStatuses") or []
    ready = sum(1 for one in statuses if one.get("ready"))
    restarts = sum(one.get("restartCount", 0) for one in statuses)
    wide = (status.get("podIP"), content["spec"].get("nodeName"), status.get("nominatedNodeName"))
    return [
        f"{ready}/{len(content['spec'].get('containers') or [])}",
        _pod_state(content, statuses),
        str(restarts),
        age(content),
        *(value or "<none>" for value in wide),
        "<none>",
    ]


def _pod_state(content: Json, statuses: list[Json]) -> str:
    status = content.get("status") or {}
    state: str = status.get("reason") or status.get("phase", "")
    for one in statuses:
        inner = one.get("state") or {}
        ended, waiting = inner.get("terminated"), inner.get("waiting")
        if waiting and waiting.get("reason"):
            state = waiting["reason"]
        elif ended:
            state = ended.get("reason") or f"ExitCode:{ended.get('exitCode', 0)}"
    if "deletionTimestamp" in content["metadata"] and state not in ("Completed", "Error"):
        return "Terminating"
    return state


def _job(content: Json) -> list[Any]:
    spec, status = content["spec"], content.get("status") or {}
    wanted = spec.get("completions", f"1 of {spec.get('parallelism', 1)}")
    start, end = status.get("startTime"), status.get("completionTime")
    took = ""
    if start and end:
        first, last = dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end)
        took = duration((last - first).total_seconds())
    elif start:
        took = since(start)
    containers = spec["template"]["spec"].get("containers") or []
    return [
        _job_state(spec, status),
        f"{status.get('succeeded', 0)}/{wanted}",
        took,
        age(content),
        ",".join(one["name"] for one in containers),
        ",".join(one.get("image", "") for one in containers),
        _labels((spec.get("selector") or {}).get("matchLabels")),
    ]


def _labels(labels: Json | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def _job_state(spec: Json, status: Json) -> str:
    true = {one["type"] for one in status.get("conditions") or [] if one["status"] == "True"}
    for kind, words in (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):
        if kind in true:
            return words
    return "Running"


def _service(content: Json) -> list[Any]:
    spec = content["spec"]
    ports = [f"{one['port']}/{one.get('protocol', 'TCP')}" for one in spec.get("ports") or []]
    address = spec.get("clusterIP") or "<none>"
    selector = _labels(spec.get("selector"))
    return [spec["type"], address, "<none>", ",".join(ports) or "<none>", age(content), selector]


def _event(content: Json) -> list[Any]:
    about = content.get("involvedObject") or content.get("regarding") or {}
    last = content.get("lastTimestamp") or content.get("eventTime") or content.get(
        "deprecatedLastTimestamp"
    )  # fmt: skip
    return [
        since(last) if last else "<unknown>",
        content.get("type", ""),
        content.get("reason", ""),
        f"{about.get('kind', '').lower()}/{about.get('name', '')}",
        content.get("message") or content.get("note", ""),
    ]


def _node(content: Json) -> list[Any]:
    status = content.get("status") or {}
    ready: Json = next((c for c in status.get("conditions") or [] if c["type"] == "Ready"), {})
    state = {"True": "Ready", "False": "NotReady"}.get(ready.get("status", ""), "Unknown")
    if content.get("spec", {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    return [state, "<none>", age(content), version]


EVENT_COLUMNS = [_column(one) for one in ("Last Seen", "Type", "Reason", "Object", "Message")]
LAYOUTS: dict[str, tuple[list[Json], Row]] = {
    "pods": (
        [
            _column("Ready"),
            _column("Status"),
            _column("Restarts"),
            AGE,
            _column("IP", wide=True),
            _column("Node", wide=True),
            _column("Nominated Node", wide=True),
            _column("Readiness Gates", wide=True),
        ],
        _pod,
    ),
    "jobs.batch": (
        [
            *(_column(one) for one in ("Status", "Completions", "Duration")),
            AGE,
            *(_column(one, wide=True) for one in ("Containers", "Images", "Selector")),
        ],
        _job,
    ),
    "services": (
        [
            *(_column(one) for one in ("Type", "Cluster-IP", "External-IP", "Port(s)")),
            AGE,
            _column("Selector", wide=True),
        ],
        _service,
    ),
    "events": (EVENT_COLUMNS, _event),
    "events.events.k8s.io": (EVENT_COLUMNS, _event),
    "nodes": ([_column("Status"), _column("Roles"), AGE, _column("Version")], _node),
    "namespaces": (
        [_column("Status"), AGE],
        lambda content: [content["status"]["phase"], age(content)],
    ),
    "configmaps": (
        [_column("Data"), AGE],
        lambda content: [
            len(content.get("data") or {}) + len(content.get("binaryData") or {}),
            age(content),
        ],
    ),
    "secrets": (
        [_column("Type"), _column("Data", "integer"), AGE],
        lambda content: [content["type"], len(content.get("data") or {}), age(content)],
    ),
    "leases.coordination.k8s.io": (
        [_column("Holder"), AGE],
        lambda content: [content.get("spec", {}).get("holderIdentity", ""), age(content)],
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        [_column("Created At", "date")],
        lambda content: [content["metadata"]["creationTimestamp"]],
    ),
}
