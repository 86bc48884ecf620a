"""A release comes, changes, goes back and leaves on a control plane as its values say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.charts.rendering import CHART, NAMESPACE, RELEASE, Manifest, Values, render, values_of
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl

DEFINITION = "dreamboothjobs.dreambooth.dev"
CRD_FILE = Path("files", "crds", "dreambooth.dev_dreamboothjobs.yaml")
JOB: Manifest = {
    "apiVersion": "dreambooth.dev/v1alpha1",
    "kind": "DreamBoothJob",
    "metadata": {"name": "mug", "namespace": "default"},
    "spec": {
        "model": {"source": "s3://models/sd"},
        "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://data/mug"}],
        "output": "s3://data/out",
    },
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane without the definition, which is the chart's to bring."""
    with control_plane(tmp_path_factory.mktemp("plane")) as started:
        if started.external:
            pytest.skip("would take the definition of the whole cluster")
        yield started


@pytest.fixture
def kubectl(plane: ControlPlane) -> Kubectl:
    return Kubectl(plane.kubeconfig)


@pytest.fixture
def cluster(plane: ControlPlane, kubectl: Kubectl) -> Iterator[helm.Config]:
    """Helm with a cluster on which nothing is installed, before as after."""
    # Helm sends the Secrets of its releases as protobuf, which the double does not know.
    driver = "secret" if plane.real else "memory"
    with helm.Config(
        kubeconfig_path=plane.kubeconfig,
        namespace=NAMESPACE,
        storage_driver=driver,
        qps=1000,
        burst_limit=1000,
    ) as config:
        yield config
        config.uninstall(RELEASE, ignore_not_found=True)
    kubectl("delete", "crd", DEFINITION, "--ignore-not-found")


def install(cluster: helm.Config, values: Values, release: str = RELEASE) -> None:
    cluster.install(CHART, release, values, create_namespace=True)


def live_objects(kubectl: Kubectl, manifests: list[Manifest]) -> list[Manifest]:
    """Those of a release's objects that are in the cluster, as they are there."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    text = kubectl("get", "-f", "-", "--output=json", "--ignore-not-found", input=listed)
    items: list[Manifest] = json.loads(text)["items"] if text else []
    return items


def of_operator(values: Values) -> list[Manifest]:
    """The objects of a release that its settings change."""
    rendered = render(values)
    return [rendered.one("Deployment"), rendered.one("ConfigMap")]


def holds(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; API servers add defaults."""
    if isinstance(wanted, dict):
        return all(key in there and holds(there[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return len(there) == len(wanted) and all(map(holds, there, wanted))
    return bool(there == wanted)


def newer_chart(folder: Path) -> Path:
    """The chart with a definition that has one more field."""
    chart = shutil.copytree(CHART, folder / "chart")
    definition = yaml.load((chart / CRD_FILE).read_text(), yaml.CSafeLoader)
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["mood"] = {"type": "string", "maxLength": 10}
    (chart / CRD_FILE).write_text(yaml.dump(definition, Dumper=yaml.CSafeDumper))
    return chart


def has_mood(kubectl: Kubectl) -> bool:
    path = "{.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.mood.type}"
    return kubectl("get", "crd", DEFINITION, f"--output=jsonpath={path}") == "string"


def test_install_creates_what_was_rendered(cluster: helm.Config, kubectl: Kubectl) -> None:
    values = values_of("guarded-operator", podDisruptionBudget={"enabled": True})
    install(cluster, values)
    manifests = render(values).manifests
    assert holds(live_objects(kubectl, manifests), manifests)


def test_jobs_are_understood_after_the_install(cluster: helm.Config, kubectl: Kubectl) -> None:
    install(cluster, values_of("minimal"))
    kubectl.wait_established(DEFINITION)
    kubectl.create(JOB)
    job = kubectl.get("dbj", "mug")
    assert job is not None
    assert job["spec"]["training"]["steps"] == 800


def test_upgrade_and_rollback_change_the_operator(cluster: helm.Config, kubectl: Kubectl) -> None:
    values = values_of("minimal")
    changed = values_of("minimal", replicas=2, settings={"workers": 3})
    before, after = of_operator(values), of_operator(changed)
    install(cluster, values)
    assert holds(live_objects(kubectl, before), before)
    cluster.upgrade(CHART, RELEASE, changed)
    assert holds(live_objects(kubectl, after), after)
    cluster.rollback(RELEASE, version=1)
    assert holds(live_objects(kubectl, before), before)
    states = [one["status"] for one in cluster.history(RELEASE)]
    assert states == ["superseded", "superseded", "deployed"]


def test_upgrade_without_a_change_starts_no_new_pods(
    cluster: helm.Config, kubectl: Kubectl
) -> None:
    values = values_of("minimal")
    install(cluster, values)
    cluster.upgrade(CHART, RELEASE, values)
    deployment, _ = live_objects(kubectl, of_operator(values))
    assert deployment["metadata"]["generation"] == 1


def test_upgrade_and_rollback_take_the_definition_along(
    cluster: helm.Config, kubectl: Kubectl, tmp_path: Path
) -> None:
    install(cluster, values_of("minimal"))
    kubectl.wait_established(DEFINITION)
    kubectl.create(JOB)
    assert not has_mood(kubectl)
    cluster.upgrade(newer_chart(tmp_path), RELEASE, values_of("minimal"))
    assert has_mood(kubectl)
    cluster.rollback(RELEASE)
    assert not has_mood(kubectl)
    assert kubectl.get("dbj", "mug") is not None


def test_uninstall_leaves_definition_and_jobs(cluster: helm.Config, kubectl: Kubectl) -> None:
    install(cluster, values_of("minimal"))
    kubectl.wait_established(DEFINITION)
    kubectl.create(JOB)
    cluster.uninstall(RELEASE, wait="watcher", timeout=30)
    assert live_objects(kubectl, render(values_of("minimal")).manifests) == []
    assert kubectl.get("dbj", "mug") is not None
    install(cluster, values_of("minimal"))  # takes it back
    assert kubectl.get("dbj", "mug") is not None


def test_without_keep_uninstall_takes_the_definition(
    cluster: helm.Config, kubectl: Kubectl
) -> None:
    install(cluster, values_of("minimal", crds={"keep": False}))
    assert kubectl.get("crd", DEFINITION) is not None
    cluster.uninstall(RELEASE, wait="watcher", timeout=30)
    assert kubectl.get("crd", DEFINITION) is None


def test_definition_that_is_not_wanted_any_more_is_left(
    cluster: helm.Config, kubectl: Kubectl
) -> None:
    install(cluster, values_of("minimal"))
    cluster.upgrade(CHART, RELEASE, values_of("minimal", crds={"enabled": False}))
    assert kubectl.get("crd", DEFINITION) is not None


def test_second_release_does_not_take_the_first_ones_definition(
    cluster: helm.Config,
) -> None:
    install(cluster, values_of("minimal"))
    with pytest.raises(helm.HelmReleaseError, match="invalid ownership metadata"):
        install(cluster, values_of("minimal"), release="another")
