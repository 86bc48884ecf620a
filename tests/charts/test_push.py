"""The chart goes to an OCI registry and comes back as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import helm_python as helm

from dreambooth_charts.version import version
from tests.charts.oci_registry import oci_registry
from tests.charts.rendering import ROOT, render, values_of

PUSH = [sys.executable, str(ROOT / ".ci" / "push_chart.py"), "--plain-http"]


def test_chart_is_installed_from_where_it_was_pushed(tmp_path: Path) -> None:
    with oci_registry() as host:
        done = subprocess.run(
            [*PUSH, f"{host}/team/"], capture_output=True, text=True, check=True, timeout=60
        )
        reference = f"oci://{host}/team/charts/dreambooth-operator"
        assert f"helm install dreambooth-operator {reference} --version {version()}" in done.stdout
        helm.pull(reference, version=version(), destination=tmp_path, plain_http=True)
    (archive,) = tmp_path.glob("*.tgz")
    assert render(values_of("minimal"), archive) == render(values_of("minimal"))


def test_registry_that_does_not_answer_is_named() -> None:
    done = subprocess.run(
        [*PUSH, "127.0.0.1:1/team"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "could not be pushed to oci://127.0.0.1:1/team/charts" in done.stderr
    assert "Traceback" not in done.stderr
