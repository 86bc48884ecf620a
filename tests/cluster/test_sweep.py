"""`dreambooth sweep` on a cluster: jobs that kubectl applies, lists and hands back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dreambooth_operator.cli.sweep.command import render_jobs, show_jobs
from dreambooth_operator.errors import UserError
from tests.cluster.kubectl import Kubectl

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
SETTINGS = ["training.learningRate=1e-4,5e-5", "training.steps=200,400"]


def test_a_sweep_is_applied_listed_by_its_label_and_shown(
    kubectl: Kubectl,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    render_jobs(QUICKSTART, SETTINGS)
    manifests = capsys.readouterr().out
    assert kubectl("apply", "-f", "-", input=manifests).count("created") == 4
    assert kubectl("apply", "-f", "-", input=manifests).count("unchanged") == 4

    label = "dreambooth.dev/sweep=quickstart"
    names = [job["metadata"]["name"] for job in kubectl.objects("dbj", label)]
    assert len(names) == 4
    failed = {
        "type": "Failed", "status": "True", "reason": "Failed", "message": "no image decodes",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {"phase": "Failed", "conditions": [failed], "runSeconds": 90}
    patch = ("patch", "dbj", names[0], "--subresource=status", "--type=merge", "-p")
    kubectl(*patch, json.dumps({"status": status}))

    patch = ("patch", "dbj", names[1], "--subresource=status", "--type=merge", "-p")
    kubectl(*patch, json.dumps({"status": {"best": {"step": 321, "score": "0.25"}}}))

    listed = tmp_path / "jobs.yaml"
    listed.write_text(kubectl("get", "dbj", "-l", label, "-o", "yaml"))
    show_jobs(listed)
    table = capsys.readouterr().out
    assert len(re.findall(r"^ *(?:0.0001|5e-05) ", table, re.MULTILINE)) == 4
    assert f"{names[0]} failed: no image decodes" in table
    assert "1.5" in table
    assert " 321 " in table
    for value in ("0.0001", "5e-05", "200", "400"):
        assert value in table
    page = (tmp_path / "quickstart-sweep.html").read_text()
    assert "no image decodes" in page
    assert "0 of 4 jobs have succeeded" in page
    kubectl("delete", "dbj", "-l", label)


def test_jobs_of_no_sweep_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"quickstart: the annotation dreambooth\.dev/sweep-"):
        show_jobs(QUICKSTART)
    empty = tmp_path / "empty.yaml"
    empty.write_text("apiVersion: v1\nkind: List\nitems: []\n")
    with pytest.raises(UserError, match=r"empty.yaml: lists no jobs; check the label"):
        show_jobs(empty)
    empty.write_text("{")
    with pytest.raises(UserError, match="is no list of jobs"):
        show_jobs(empty)
