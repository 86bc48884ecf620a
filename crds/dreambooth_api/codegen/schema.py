"""The CustomResourceDefinition, generated from the models.

Pydantic's JSON schema becomes a structural schema (apiextensions.k8s.io/v1 JSONSchemaProps):
references are inlined, "or null" becomes optional, and defaults stand at every level, so that the
API server fills in a nested default when its parent is absent.
"""

from copy import deepcopy
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.update import transitions
from dreambooth_api.schema.base import GROUP, KIND, VERSION

Schema = dict[str, Any]

PLURAL = "dreamboothjobs"
KEPT = (
    "type",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "enum",
    "format",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)
"""Keywords that mean the same in JSON schema and in a structural schema."""

OBJECT_META: Schema = {
    "apiVersion": {"type": "string", "description": "Version of the API: dreambooth.dev/v1alpha1."},
    "kind": {"type": "string", "description": "Kind of the object: DreamBoothJob."},
}


def _of_condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


# What a user filters by: unlike labels, these need no copy that could be out of date.
SELECTABLE_FIELDS = [
    ".spec.suspend",
    ".spec.training.method",
    ".spec.runtime.queue",
    ".spec.runtime.priorityClassName",
    ".status.phase",
    ".status.stage",
]
"""Fields for `kubectl get dbj --field-selector`; the API server takes eight at most."""

PRINTER_COLUMNS = [
    ("Phase", "string", ".status.phase", "Phase of the job's life cycle"),
    ("Stage", "string", ".status.stage", "What a running job is doing"),
    ("Step", "integer", ".status.progress.step", "Optimizer steps done"),
    ("Total", "integer", ".status.progress.totalSteps", "Optimizer steps to do"),
    ("Loss", "string", ".status.progress.loss", "Total loss"),
    ("ETA", "string", ".status.progress.eta", "Time left"),
    ("Failures", "integer", ".status.counters.failures", "Attempts that failed"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created"),
]
"""Name, type, path and description of what `kubectl get dbj` prints."""

WIDE_COLUMNS = [
    ("Nodes", "integer", ".spec.runtime.nodes", "Pods of one attempt"),
    ("Queue", "string", ".spec.runtime.queue", "Kueue LocalQueue"),
    ("Checkpoint", "integer", ".status.lastCheckpoint.step", "Step of the newest checkpoint"),
    ("Best", "integer", ".status.best.step", "Step of the best checkpoint"),
    ("Score", "string", ".status.best.score", "Score of the best checkpoint"),
    ("Pods", "string", _of_condition("PodsReady", "reason"), "Why the pods are ready or not"),
    ("Message", "string", _of_condition("Failed", "message"), "Why the job failed"),
]
"""What `kubectl get dbj -o wide` prints beside them."""


def custom_resource_definition() -> Schema:
    """The CustomResourceDefinition of the DreamBoothJob (apiextensions.k8s.io/v1)."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                # `kubectl get all` lists the jobs beside their pods.
                "categories": ["all"],
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "shortNames": ["dbj"],
                "singular": KIND.lower(),
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> Schema:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": job_schema()},
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": path} for path in SELECTABLE_FIELDS],
        "additionalPrinterColumns": [
            *(_column(*column) for column in PRINTER_COLUMNS),
            *(_column(*column) | {"priority": 1} for column in WIDE_COLUMNS),
        ],
    }


def _column(name: str, kind: str, path: str, description: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": description}


def job_schema() -> Schema:
    """The structural schema of a DreamBoothJob (openAPIV3Schema of the CRD)."""
    source = DreamBoothJob.model_json_schema(by_alias=True)
    whole = structural(source, source["$defs"])
    parts = whole["properties"]
    name = parts["metadata"]["properties"]["name"]
    del name["description"]
    # A CRD may restrict nothing of ObjectMeta but the name.
    parts["metadata"] = {"type": "object", "properties": {"name": name}}
    parts["spec"]["x-kubernetes-validations"] += [t.as_validation() for t in transitions()]
    return {
        "type": "object",
        "description": whole["description"],
        "required": ["spec"],
        "properties": OBJECT_META | {key: parts[key] for key in ("metadata", "spec", "status")},
    }


def structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """A node of a JSON schema as a node of a structural schema, without references."""
    node = _resolved(node, definitions)
    result: Schema = {key: node[key] for key in KEPT if key in node}
    if "description" in node:
        result["description"] = " ".join(node["description"].split())
    # In a structural schema an absent field is just that: `default: null` would be refused.
    if node.get("default") is not None:
        result["default"] = node["default"]
    if "const" in node:
        result["enum"] = [node["const"]]
    result |= _numbers(node)
    if node.get("type") == "object":
        result |= _object(node, definitions)
    if node.get("type") == "array":
        result["items"] = structural(node["items"], definitions)
        # Items without a key cannot be told apart, so server-side apply replaces the list as a
        # whole.
        result.setdefault("x-kubernetes-list-type", "atomic")
    return result


def _resolved(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with its reference inlined, and without "or null": what is null is absent."""
    for choice in node.get("anyOf", []):
        if choice.get("type") != "null":
            node = choice | {key: value for key, value in node.items() if key != "anyOf"}
    if "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _resolved(definitions[node["$ref"].rpartition("/")[2]] | beside, definitions)
    return node


def _numbers(node: Schema) -> Schema:
    """Formats, and exclusive bounds as OpenAPI 3.0 writes them: a bound and a boolean."""
    result: Schema = {}
    if node.get("type") == "integer":
        # Without a bound Go's int64, the widest integer of the API.
        small = node.get("maximum", 2**63) < 2**31
        result["format"] = "int32" if small else "int64"
    if node.get("type") == "number":
        result["format"] = "double"
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    return result


def _object(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Fields of an object, or the values of a map, or anything."""
    values = node.get("additionalProperties")
    result: Schema = {}
    if "maxProperties" in node:
        result["maxProperties"] = node["maxProperties"]
    if isinstance(values, dict):
        return result | {"additionalProperties": structural(values, definitions)}
    # Opaque parts of a pod: without this the API server would drop (prune) their fields.
    if values is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" not in node:
        return result
    required = node.get("required", [])
    fields = {
        name: _field(field, definitions, optional=name not in required)
        for name, field in node["properties"].items()
    }
    return result | ({"required": required} if required else {}) | {"properties": fields}


def _field(field: Schema, definitions: dict[str, Schema], *, optional: bool) -> Schema:
    """A field; an object that pydantic makes by itself gets the defaults of its fields.

    They are written out, as the API server checks a default against the rules as it is written.
    """
    result = structural(field, definitions)
    if optional and "anyOf" not in field and result.get("type") == "object":
        fields = result.get("properties", {}).items()
        defaults = {name: inner["default"] for name, inner in fields if "default" in inner}
        result.setdefault("default", deepcopy(defaults))
    return result
