"""values.schema.json: what Helm checks values against, before anything is rendered."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dreambooth_charts.values import Value
from dreambooth_operator.controller.app.settings import Settings

Schema = dict[str, Any]
FORM = Path(__file__).parent / "values.schema.yaml"
OWN = ("trainerImage",)
"""Settings that the chart makes from other values."""
PORT = "Port of /metrics, /healthz and /readyz."
OWN_OF_LEASE = ("enabled", "namespace", "name")


def values_schema(values: Iterable[Value]) -> Schema:
    """The schema of values.yaml; `values` are its values with their comments."""
    schema: Schema = yaml.safe_load(FORM.read_text(encoding="utf-8"))
    settings = settings_schema()
    schema["$defs"] |= settings.pop("$defs")
    schema["properties"]["settings"] = settings
    for value in values:
        _describe(schema, value)
    for part in _parts(schema):
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


def settings_schema() -> Schema:
    """The operator's settings, as far as the chart leaves them to its user."""
    schema = Settings.model_json_schema(by_alias=True)
    for name in OWN:
        del schema["properties"][name]
    for name in OWN_OF_LEASE:
        del schema["$defs"]["LeaderElection"]["properties"][name]
    del schema["properties"]["leaderElection"]["default"]
    # What the chart makes is all that the operator requires.
    assert set(schema.pop("required")) == set(OWN)
    # Each gets a Role, which cannot be there twice.
    schema["properties"]["namespaces"]["uniqueItems"] = True
    # The probes and the Service have to know it, so it cannot be left open.
    schema["properties"]["metricsPort"] |= {"minimum": 1, "description": PORT}
    for part in _parts(schema):
        part.pop("title", None)
        for keyword in [key for key in part if key.startswith("x-kubernetes-")]:
            part.pop(keyword)
    return schema


def _describe(schema: Schema, value: Value) -> None:
    """Have editors show the first paragraph of a comment."""
    first, *_ = value.text.split("\n\n")
    part = schema
    for name in value.path:
        if "properties" not in part:  # a reference, or a value that is given as a whole
            return
        part = part["properties"][name]
    if first and "description" not in part:
        part["description"] = " ".join(first.split())


def _parts(schema: Schema) -> Iterator[Schema]:
    """Every schema in a schema, itself among them."""
    yield schema
    for group in ("properties", "$defs"):
        for part in schema.get(group, {}).values():
            yield from _parts(part)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key])
