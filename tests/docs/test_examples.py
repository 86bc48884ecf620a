"""Every example on a page is what it claims to be: a job, a part of one, values, an object."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.load import parse
from dreambooth_api.parsing.warnings.advice import warnings
from dreambooth_operator.controller.app.settings import Settings
from dreambooth_operator.manifests.resources import attempt_objects
from tests.charts.rendering import render, values_of
from tests.cluster.apiserver import admission
from tests.docs.pages import BLOCKS, ROOT, Block

CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
JOB = {
    "apiVersion": "dreambooth.dev/v1alpha1",
    "kind": "DreamBoothJob",
    "metadata": {"name": "my-mug"},
    "spec": {
        "model": {"source": "s3://models/stable-diffusion-v1-5"},
        "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://my-bucket/mug"}],
        "output": "s3://my-bucket/results",
    },
}
"""What a part of a job is put into."""
PART, VALUES = "# spec\n", "# values.yaml\n"
"""How a block begins that is no whole object."""
GITOPS = ("argoproj.io/v1alpha1", "helm.toolkit.fluxcd.io/v2", "kustomize.toolkit.fluxcd.io/v1")
"""Objects of these versions have no published schema here; see test_gitops.py."""

yaml_blocks = pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in ("yaml", "yml")], ids=str
)


def admitted(job: dict[str, Any]) -> list[str]:
    """What an API server with the definition finds wrong with a job."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    stored = admission.with_defaults(schema, admission.as_json(job))
    _, unknown = admission.pruned(schema, stored)
    wrong = [fault.field for fault in admission.wrong_values(schema, stored)]
    return unknown + wrong + [fault.field for fault in admission.broken_rules(schema, stored, None)]


def check_job(document: dict[str, Any]) -> None:
    """The CRD and the models accept it without warnings, and pods can be rendered from it."""
    assert admitted(document) == []
    job = parse(document)
    assert warnings(job) == []
    for manifest in attempt_objects(job, 0, "trainer:1"):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@yaml_blocks
def test_yaml_is_valid(block: Block) -> None:
    (document,) = yamljson.documents(block.text)
    if block.text.startswith(PART):
        check_job(JOB | {"spec": JOB["spec"] | document})  # type: ignore[operator]
    elif block.text.startswith(VALUES):
        assert render(values_of("minimal") | document).manifests
    elif document.get("kind") == "DreamBoothJob":
        check_job(document)
    elif document["apiVersion"] not in GITOPS:
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_most_examples_are_of_each_kind() -> None:
    """A slip in how blocks are recognised would have them pass for something else."""
    text = [block.text for block in BLOCKS if block.language == "yaml"]
    assert sum(each.startswith(PART) for each in text) >= 10
    assert sum(each.startswith(VALUES) for each in text) >= 6
    assert sum("kind: DreamBoothJob" in each for each in text) >= 2


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_every_block_says_its_language() -> None:
    known = {"console", "json", "mermaid", "promql", "python", "sh", "yaml"}
    assert [str(block) for block in BLOCKS if block.language not in known] == []


def test_settings_in_commands_are_settings() -> None:
    """`echo '...' > operator.yaml` is a file of settings."""
    lines = [line for b in BLOCKS if b.language == "sh" for line in b.text.splitlines()]
    written = [line.split("'")[1] for line in lines if line.endswith("> operator.yaml")]
    assert written
    for text in written:
        Settings.model_validate(yaml.safe_load(text), by_alias=True, by_name=False)
