"""What is made from values.yaml and from the operator is up to date, and leaves nothing out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_api.codegen.files import REPOSITORY
from dreambooth_charts.generate import CHART, generated
from dreambooth_charts.values import Value, documented
from tests.charts.rendering import CHART as FOLDER

FREE = {
    "assistant.resources.limits.memory",
    "assistant.resources.requests.cpu",
    "assistant.resources.requests.memory",
    "dashboards.labels.grafana_dashboard",
    "resources.limits.memory",
    "resources.requests.cpu",
    "resources.requests.memory",
    "serving.resources.limits.memory",
    "serving.resources.requests.cpu",
    "serving.resources.requests.memory",
}
"""Keys in the file's maps that could be any others."""


@pytest.fixture(scope="module")
def values() -> list[Value]:
    return documented(FOLDER / "values.yaml")


def paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The path of every value in a file of values."""
    for name, value in values.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{above}{name}.")


def written(tmp_path: Path, text: str) -> list[Value]:
    path = tmp_path / "values.yaml"
    path.write_text(text)
    return documented(path)


def test_committed_files_are_up_to_date() -> None:
    for path, text in generated().items():
        assert (REPOSITORY / path).read_text() == text, f"{path}: run `make generate`"


def test_check_names_what_differs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dreambooth_charts.generate", "--root", str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0
    readme = tmp_path / CHART / "README.md"
    readme.write_text(readme.read_text().replace("### `crds.keep`", "### `crds.drop`"))
    result = subprocess.run([*command, "--check"], check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert "-### `crds.drop`" in result.stderr
    assert "values.schema.json" not in result.stderr


def test_comment_above_a_value_is_its_text(tmp_path: Path) -> None:
    text = """\
# About the file.

# The first.
#
#     example: 1
first: {a: 1}

second:
  # Inside.
  inner: true
  enabled: false
"""
    first, second, inner, enabled = written(tmp_path, text)
    assert first == Value(("first",), "The first.\n\n    example: 1", {"a": 1}, leaf=True)
    assert (second.text, second.leaf) == ("", False)
    assert inner == Value(("second", "inner"), "Inside.", True, leaf=True)
    assert (enabled.name, enabled.text) == ("second.enabled", "")


def test_every_value_is_explained(values: list[Value]) -> None:
    assert [v.name for v in values if not v.text and v.path[-1] != "enabled"] == []


def test_readme_names_every_value_and_setting(values: list[Value]) -> None:
    readme = (FOLDER / "README.md").read_text()
    for value in values:
        assert f"### `{value.name}`\n" in readme
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    settings = schema["properties"]["settings"]["properties"]
    for name in settings.keys() - {"jobDefaults", "leaderElection", "log"}:
        assert f"| `{name}` |" in readme
    assert "| `leaderElection.leaseSeconds` | `15` |" in readme
    assert "| `jobDefaults.queue` |  |" in readme
    assert '| `jobDefaults.storage.addressingStyle` | `"auto"` |' in readme


def test_schema_knows_exactly_the_values() -> None:
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    file = yaml.safe_load((FOLDER / "values.yaml").read_text())
    for part in (schema["properties"], file):
        del part["settings"]  # the operator's own defaults stand in for what the file leaves out
    del schema["properties"]["global"]
    assert paths_of_schema(schema, schema) == set(paths(file)) - FREE


def paths_of_schema(schema: dict[str, Any], part: dict[str, Any], above: str = "") -> set[str]:
    """The path of every property below a part of a schema."""
    found = set()
    for name, inner in part.get("properties", {}).items():
        meant = schema["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        found |= {above + name} | paths_of_schema(schema, meant, f"{above}{name}.")
    return found


def test_schema_describes_values_to_editors() -> None:
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    assert schema["properties"]["replicas"]["description"].startswith("Pods of the operator.")
    keep = schema["properties"]["crds"]["properties"]["keep"]
    assert keep["description"].startswith("`true`: `helm uninstall`")
    assert keep["type"] == "boolean"
