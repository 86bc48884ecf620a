"""`kubectl apply` of a job: no change without a difference, no conflict where managers agree.

On the double, and with KUBEBUILDER_ASSETS on Kubernetes' own API server as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.kubectl import Kubectl, KubectlError

ROOT = Path(__file__).parents[2]
VALID = ROOT / "tests" / "crds" / "jobs" / "valid"
# Server-side apply refuses null where a field is not nullable, for any kind.
FILES = [
    path
    for path in [*sorted((ROOT / "examples").glob("*.yaml")), *sorted(VALID.glob("*.yaml"))]
    if path.stem != "nulls"
]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def text(request: pytest.FixtureRequest, kubectl: Kubectl) -> Iterator[str]:
    job = yaml.safe_load(request.param.read_text())
    job["metadata"]["namespace"] = "default"
    yield yaml.safe_dump(job)
    kubectl("delete", "dreamboothjob", job["metadata"]["name"])


def test_an_unchanged_file_is_unchanged(kubectl: Kubectl, text: str) -> None:
    assert kubectl("apply", "-f", "-", input=text).endswith("created\n")
    assert kubectl("apply", "-f", "-", input=text).endswith("unchanged\n")


def test_another_manager_applies_the_same_file_without_conflict(
    kubectl: Kubectl, text: str
) -> None:
    kubectl("apply", "--server-side", "-f", "-", input=text)
    before = _generation(kubectl, text)
    kubectl("apply", "--server-side", "--field-manager=gitops", "-f", "-", input=text)
    assert _generation(kubectl, text) == before


def test_a_manager_owns_the_parts_that_it_applied(kubectl: Kubectl) -> None:
    """One writes the job, another one decides when it runs."""
    job = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    name = job["metadata"]["name"]
    kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(job))
    part = {key: job[key] for key in ("apiVersion", "kind", "metadata")}
    part["spec"] = {"suspend": True}
    policy = ("apply", "--server-side", "--field-manager=policy", "-f", "-")
    kubectl(*policy, input=yaml.safe_dump(part))
    found = kubectl.get("dreamboothjob", name)
    assert found is not None
    assert found["spec"]["suspend"] is True
    assert len(found["spec"]["subjects"]) == len(job["spec"]["subjects"])
    job["spec"]["suspend"] = False
    with pytest.raises(KubectlError, match='conflict with "policy"'):
        kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(job))
    kubectl("delete", "dreamboothjob", name)


def _generation(kubectl: Kubectl, text: str) -> int:
    found = kubectl.get("dreamboothjob", yaml.safe_load(text)["metadata"]["name"])
    assert found is not None
    generation: int = found["metadata"]["generation"]
    return generation
