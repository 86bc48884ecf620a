"""values.schema.json, against which Helm validates values before it renders anything."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dreambooth_charts.values import Value
from dreambooth_operator.controller.app.settings import Settings

Schema = dict[str, Any]
TEMPLATE = Path(__file__).parent / "values.schema.yaml"
SET_BY_CHART = ("trainerImage",)
"""Settings that the chart derives from other values."""
# Without "0: a free port": see below.
PORT = "Port of /metrics, /healthz and /readyz."
LEASE_SET_BY_CHART = ("enabled", "namespace", "name")


def values_schema(values: Iterable[Value]) -> Schema:
    """The JSON schema of values.yaml, in which every unknown value is an error.

    Args:
        values: The values with their comments, which become descriptions.
    """
    schema: Schema = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    settings = settings_schema()
    schema["$defs"] |= settings.pop("$defs")
    schema["properties"]["settings"] = settings
    for value in values:
        _describe(schema, value)
    for part in _parts(schema):
        if "properties" in part:  # parts of core/v1 objects say themselves that they allow more
            part.setdefault("additionalProperties", False)
    return schema


def settings_schema() -> Schema:
    """The JSON schema of the operator's settings, without those that the chart sets itself."""
    schema = Settings.model_json_schema(by_alias=True)
    for name in SET_BY_CHART:
        del schema["properties"][name]
    for name in LEASE_SET_BY_CHART:
        del schema["$defs"]["LeaderElection"]["properties"][name]
    del schema["properties"]["leaderElection"]["default"]
    # The chart sets everything that the operator requires.
    assert set(schema.pop("required")) == set(SET_BY_CHART)
    # The chart creates a Role in each, which must not exist twice.
    schema["properties"]["namespaces"]["uniqueItems"] = True
    # The probes and the Service refer to the port, so it must be a fixed one.
    schema["properties"]["metricsPort"] |= {"minimum": 1, "description": PORT}
    for part in _parts(schema):
        part.pop("title", None)
        for keyword in [key for key in part if key.startswith("x-kubernetes-")]:
            part.pop(keyword)
    return schema


def _describe(schema: Schema, value: Value) -> None:
    """Use the first paragraph of a comment as description, which editors show."""
    first, *_ = value.text.split("\n\n")
    part = schema
    for name in value.path:
        if "properties" not in part:  # a reference, or a value that is set as a whole
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
