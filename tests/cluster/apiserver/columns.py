"""The columns of built-in kinds, as `kubectl get` prints them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from tests.cluster.apiserver.duration import age, duration, since
from tests.cluster.apiserver.resources import Json

Row = Callable[[Json], list[Any]]


def column(name: str, kind: str = "string", *, wide: bool = False, **more: str) -> Json:
    return {
        "name": name,
        "type": kind,
        "format": more.get("format", ""),
        "description": more.get("description", ""),
        "priority": 1 if wide else 0,
    }


NAME = column("Name", format="name")
AGE = column("Age")


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


EVENT_COLUMNS = [column(one) for one in ("Last Seen", "Type", "Reason", "Object", "Message")]
COLUMNS: dict[str, tuple[list[Json], Row]] = {
    "pods": (
        [
            column("Ready"),
            column("Status"),
            column("Restarts"),
            AGE,
            column("IP", wide=True),
            column("Node", wide=True),
            column("Nominated Node", wide=True),
            column("Readiness Gates", wide=True),
        ],
        _pod,
    ),
    "jobs.batch": (
        [
            *(column(one) for one in ("Status", "Completions", "Duration")),
            AGE,
            *(column(one, wide=True) for one in ("Containers", "Images", "Selector")),
        ],
        _job,
    ),
    "services": (
        [
            *(column(one) for one in ("Type", "Cluster-IP", "External-IP", "Port(s)")),
            AGE,
            column("Selector", wide=True),
        ],
        _service,
    ),
    "events": (EVENT_COLUMNS, _event),
    "events.events.k8s.io": (EVENT_COLUMNS, _event),
    "nodes": ([column("Status"), column("Roles"), AGE, column("Version")], _node),
    "namespaces": (
        [column("Status"), AGE],
        lambda content: [content["status"]["phase"], age(content)],
    ),
    "configmaps": (
        [column("Data"), AGE],
        lambda content: [
            len(content.get("data") or {}) + len(content.get("binaryData") or {}),
            age(content),
        ],
    ),
    "secrets": (
        [column("Type"), column("Data", "integer"), AGE],
        lambda content: [content["type"], len(content.get("data") or {}), age(content)],
    ),
    "leases.coordination.k8s.io": (
        [column("Holder"), AGE],
        lambda content: [content.get("spec", {}).get("holderIdentity", ""), age(content)],
    ),
    "customresourcedefinitions.apiextensions.k8s.io": (
        [column("Created At", "date")],
        lambda content: [content["metadata"]["creationTimestamp"]],
    ),
}
