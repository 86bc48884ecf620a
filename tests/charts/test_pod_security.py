"""Every pod that the chart and its jobs start holds the restricted Pod Security Standard."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_operator.manifests.resources import attempt_job, preflight_job
from tests.charts.pod_security import violations
from tests.charts.rendering import SETS, quickstart, render, values_of


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_pods_hold_the_restricted_standard(path: Path) -> None:
    spec = render(values_of(path.stem)).pod["spec"]
    assert violations(spec) == []
    assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in spec["containers"])


def test_pods_of_jobs_hold_the_restricted_standard() -> None:
    job = quickstart()
    for manifest in (attempt_job(job, 0, "trainer:test"), preflight_job(job, "trainer:test")):
        assert violations(manifest["spec"]["template"]["spec"]) == []


def test_user_is_a_number_unless_the_cluster_chooses() -> None:
    ours, theirs = (
        render(values_of(name)).pod["spec"]["securityContext"] for name in ("minimal", "openshift")
    )
    assert ours["runAsUser"] == 65532
    assert "runAsUser" not in theirs
