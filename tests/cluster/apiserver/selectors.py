"""Label selectors and field selectors, as list, watch and deletecollection take them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.cluster.apiserver.errors import bad_request
from tests.cluster.apiserver.resources import Json, Resource

Predicate = Callable[[Json], bool]

SET = re.compile(r"(\S+)\s+(in|notin)\s*\(([^)]*)\)$")
EQUALITY = re.compile(r"([^\s=!]+)\s*(==|=|!=)\s*([^\s=!]*)$")
EXISTENCE = re.compile(r"(!?)\s*([^\s=!()]+)$")

INVOLVED = tuple(
    f"involvedObject.{name}"
    for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
)
SELECTABLE = {
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
             "status.phase", "status.podIP", "status.nominatedNodeName"),
    "events": (*INVOLVED, "reason", "reportingComponent", "source", "type"),
    "jobs.batch": ("status.successful",),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "services": ("spec.clusterIP", "spec.type"),
}  # fmt: skip
"""Fields beside metadata.name and metadata.namespace that a resource can be selected by."""


def selection(resource: Resource, labels: str, fields: str) -> Predicate | None:
    """The objects that match both selectors; None when every object does."""
    predicates = [*_labels(labels), *_fields(resource, fields)]
    if not predicates:
        return None
    return lambda content: all(matches(content) for matches in predicates)


def _labels(selector: str) -> list[Predicate]:
    return [_requirement(part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part]


def _requirement(text: str) -> Predicate:
    if match := SET.match(text):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        return _values(key, values, wanted=operator == "in")
    if match := EQUALITY.match(text):
        key, operator, value = match.groups()
        return _values(key, {value}, wanted=operator != "!=")
    if match := EXISTENCE.match(text):
        absent, key = match.groups()
        return lambda content: (key in _labels_of(content)) != bool(absent)
    raise bad_request(f"unable to parse requirement: {text}")


def _values(key: str, values: set[str], *, wanted: bool) -> Predicate:
    """An absent label matches `!=` and `notin`, and never `=` and `in`."""
    return lambda content: (_labels_of(content).get(key) in values) == wanted


def _labels_of(content: Json) -> dict[str, str]:
    return content["metadata"].get("labels") or {}


def _fields(resource: Resource, selector: str) -> list[Predicate]:
    return [_term(resource, part.strip()) for part in selector.split(",") if part.strip()]


def _term(resource: Resource, text: str) -> Predicate:
    match = EQUALITY.match(text)
    if not match:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    path, operator, value = match.groups()
    own = resource.selectable if resource.custom else SELECTABLE.get(resource.qualified, ())
    known = ("metadata.name", "metadata.namespace", *own)
    if path not in known:
        raise bad_request(_unknown_field(resource, path))
    keys = path.split(".")
    return lambda content: (_text(content, keys) == value) == (operator != "!=")


def _unknown_field(resource: Resource, path: str) -> str:
    if resource.custom or resource.qualified in SELECTABLE:
        return f"field label not supported: {path}"
    return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _text(content: Any, keys: list[str]) -> str:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    if isinstance(content, bool):
        return str(content).lower()
    return "" if content is None or isinstance(content, dict) else str(content)
