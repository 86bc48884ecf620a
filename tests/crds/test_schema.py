"""The CRD is one that an API server accepts, and that fits where it has to."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dreambooth_api.codegen.generate import CRD_FILE, generated
from dreambooth_api.codegen.schema import custom_resource_definition, job_schema
from dreambooth_api.schema.base import PATTERNS

CONDITION = re.compile(r"\[\?\(@\.type==\"\w+\"\)\]")
MAP_KEYS = "x-kubernetes-list-map-keys"
Schema = dict[str, Any]
Node = tuple[str, Schema]

REPOSITORY = Path(__file__).parents[2]
ALLOWED = {
    *("type", "description", "default", "enum", "format", "properties", "required", "items"),
    *("additionalProperties", "pattern", "maxLength", "minLength", "minimum", "maximum"),
    *("exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"),
    *("maxProperties", "x-kubernetes-int-or-string", "x-kubernetes-list-type"),
    *("x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields"),
    "x-kubernetes-validations",
}


def nodes(path: str, schema: Schema) -> Iterator[Node]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", child)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(f"{path}[]", schema[key])


NODES = list(nodes("job", job_schema()))
SPEC = [(path, node) for path, node in NODES if path.startswith("job.spec")]


def field(schema: Schema, path: str) -> Schema:
    for name in path.strip(".").split("."):
        schema = schema.get("items", schema)["properties"][name]
    return schema


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_crd_is_valid_in_the_published_schemas(version: str) -> None:
    crd = custom_resource_definition()
    assert kubernetes_validate.validate(crd, version, strict=True) == version


def test_keywords_are_those_of_a_structural_schema() -> None:
    assert [(path, key) for path, node in NODES for key in node.keys() - ALLOWED] == []


def test_every_node_has_one_type() -> None:
    for path, node in NODES:
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path


def test_no_object_has_both_fields_and_free_keys() -> None:
    assert [p for p, node in NODES if {"properties", "additionalProperties"} <= node.keys()] == []


def test_exclusive_bounds_are_booleans_beside_a_bound() -> None:
    for path, node in NODES:
        for bound in ("minimum", "maximum"):
            exclusive = node.get(f"exclusive{bound.capitalize()}", True)
            assert exclusive is True, path
            assert bound in node or f"exclusive{bound.capitalize()}" not in node, path


def test_everything_of_the_spec_is_bounded() -> None:
    """Without bounds the API server assumes the worst, and refuses the rules as too costly."""
    for path, node in SPEC:
        if node.get("type") == "string":
            assert "enum" in node or "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_every_field_is_described() -> None:
    """So that `kubectl explain` has a text for each; the API server describes the metadata."""
    fields = [each for each in NODES if not each[0].endswith("[]") and "metadata" not in each[0]]
    assert [path for path, node in fields if "description" not in node] == []


def test_lists_of_objects_with_a_key_are_map_lists() -> None:
    keys = {p: node["x-kubernetes-list-map-keys"] for p, node in NODES if MAP_KEYS in node}
    overrides = "job.spec.runtime.podOverrides.spec"
    assert keys == {
        "job.spec.model.mergedAdapters": ["source"],
        "job.spec.subjects": ["identifier"],
        "job.spec.evaluation.select.scores": ["name"],
        "job.spec.runtime.imagePullSecrets": ["name"],
        f"{overrides}.volumes": ["name"],
        f"{overrides}.containers": ["name"],
        f"{overrides}.initContainers": ["name"],
        f"{overrides}.resourceClaims": ["name"],
        f"{overrides}.containers[].resources.claims": ["name"],
        f"{overrides}.containers[].env": ["name"],
        f"{overrides}.containers[].volumeMounts": ["mountPath"],
        "job.status.conditions": ["type"],
        "job.status.attempts": ["number"],
    }
    for path, node in NODES:
        for key in node.get(MAP_KEYS, []):
            assert key in node["items"]["required"], path


def test_items_of_lists_have_no_defaults() -> None:
    """`kubectl apply` compares a list as a whole: a default in it is a difference each time."""
    assert [path for path, node in SPEC if "[]" in path and "default" in node] == []


def test_optional_objects_with_defaults_below_have_a_default() -> None:
    """Without a default on the parent the API server would not fill in what is below.

    It refuses a CRD whose rules do not hold for that default as it is written.
    """
    spec = job_schema()["properties"]["spec"]
    for name in ("prior", "training", "checkpoints", "samples", "storage", "runtime", "tracking"):
        fields = spec["properties"][name]["properties"].items()
        defaults = {key: inner["default"] for key, inner in fields if "default" in inner}
        assert spec["properties"][name]["default"] == defaults, name
    for name in ("evaluation", "tracking.wandb", "storage.region"):
        assert "default" not in field(spec, name), name


def test_rules_blame_a_field_that_exists() -> None:
    for _, node in NODES:
        for rule in node.get("x-kubernetes-validations", []):
            assert field(node, rule["fieldPath"]), rule


def test_messages_say_what_to_do_on_one_line() -> None:
    rules = [rule for _, node in NODES for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 40
    for rule in rules:
        assert "\n" not in rule["message"] + rule["rule"]
        assert ";" in rule["message"] or "create a new" in rule["message"], rule


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_means_the_same_in_go_rust_and_python(pattern: str) -> None:
    assert pattern.startswith("^")
    assert pattern.endswith("$")
    for unlike in (r"\s", r"\S", r"\w", r"\d", r"\b", "(?", r"\1"):
        assert unlike not in pattern


def test_metadata_restricts_nothing_but_the_name() -> None:
    metadata = job_schema()["properties"]["metadata"]
    assert metadata.keys() == {"type", "properties"}
    assert metadata["properties"].keys() == {"name"}


def test_longest_name_leaves_room_for_every_child() -> None:
    longest = job_schema()["properties"]["metadata"]["properties"]["name"]["maxLength"]
    nodes = job_schema()["properties"]["spec"]["properties"]["runtime"]["properties"]["nodes"]
    pod = f"{'a' * longest}-{10**6}-{nodes['maximum'] - 1}-abcde"
    assert len(pod) <= 63


def test_client_side_apply_can_store_it() -> None:
    # All annotations of an object have 256 KiB together; kubectl's copy is one of them.
    assert len(json.dumps(custom_resource_definition())) < 262_144 / 2


def test_columns_show_progress() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    columns = version["additionalPrinterColumns"]
    names = "Phase Stage Step Total Loss ETA Failures Age"
    assert [c["name"] for c in columns if "priority" not in c] == names.split()
    wide = "Nodes Queue Checkpoint Best Score Pods Message"
    assert [c["name"] for c in columns if c.get("priority") == 1] == wide.split()
    for column in columns:
        if column["name"] != "Age":
            path = CONDITION.sub("", column["jsonPath"])
            assert field(job_schema(), path)["type"] == column["type"]


def test_selectable_fields_are_few_and_plain() -> None:
    """The API server takes eight at most, and only strings, booleans and integers."""
    (version,) = custom_resource_definition()["spec"]["versions"]
    paths = [one["jsonPath"] for one in version["selectableFields"]]
    assert len(paths) <= 8
    for path in paths:
        assert field(job_schema(), path)["type"] in ("string", "boolean", "integer")


def test_committed_files_are_up_to_date() -> None:
    for path, text in generated().items():
        assert (REPOSITORY / path).read_text() == text, f"{path}: run `make generate`"


def generate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dreambooth_api.codegen.generate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_check_names_what_differs(tmp_path: Path) -> None:
    assert generate("--root", str(tmp_path)).returncode == 0
    assert generate("--check", "--root", str(tmp_path)).returncode == 0
    crd = tmp_path / "crds" / CRD_FILE
    crd.write_text(crd.read_text().replace("singular: dreamboothjob", "singular: other"))
    result = generate("--check", "--root", str(tmp_path))
    assert result.returncode == 1
    assert "-    singular: other" in result.stderr
    assert f"crds/{CRD_FILE}" in result.stderr
    assert "reference.md" not in result.stderr


def test_reference_names_every_field() -> None:
    reference = generated()[Path("docs", "reference.md")]
    for path, _ in SPEC:
        name = path.rpartition(".")[2]
        assert name == "spec" or path.endswith("[]") or f"`{name}`" in reference, path


def test_crd_file_is_plain_yaml() -> None:
    text = generated()[Path("crds", CRD_FILE)]
    assert yaml.safe_load(text) == custom_resource_definition()
    # Readers of the file, people and tools, need not know YAML's anchors.
    assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
