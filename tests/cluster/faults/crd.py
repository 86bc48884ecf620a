"""The DreamBoothJob's definition (CRD): there, gone, or another than the operator knows."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.client import Object
from tests.cluster.fake_cluster import FakeCluster

DEFINITIONS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PATH = f"{DEFINITIONS}/dreamboothjobs.dreambooth.dev"
FILE = Path(__file__).parents[3] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"


def definition() -> Object:
    """The definition as it is delivered."""
    crd: Object = yaml.safe_load(FILE.read_text())
    return crd


def schema(definition: Object) -> Object:
    """The OpenAPI properties of a DreamBoothJob in a definition."""
    schema: Object = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    properties: Object = schema["properties"]
    return properties


def ensure_definition(cluster: FakeCluster) -> None:
    """Create the definition unless it is there."""
    if cluster.find(PATH) is None:
        cluster.create(DEFINITIONS, definition())
    cluster.wait(lambda: _established(cluster))


def replace_definition(cluster: FakeCluster, changed: Object) -> None:
    """Put another definition in the place of the one that is there."""
    cluster.patch(PATH, {"spec": {"versions": changed["spec"]["versions"]}})


def delete_definition(cluster: FakeCluster) -> None:
    """Delete the definition and all DreamBoothJobs with it."""
    cluster.delete(PATH)
    cluster.wait(lambda: cluster.find(PATH) is None)


def _established(cluster: FakeCluster) -> bool:
    conditions = cluster.get(PATH)["status"].get("conditions") or []  # null at first
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
