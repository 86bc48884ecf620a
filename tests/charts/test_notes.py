"""What Helm prints after an installation can be pasted into a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dreambooth_api.parsing.load import load
from tests.charts.rendering import render, values_of

KUBECTL = """\
#!/bin/sh
echo "$@" >>"$CALLS"
[ "$1" = apply ] && cat >"$APPLIED"
exit 0
"""


@pytest.mark.parametrize(("name", "namespace"), [("minimal", "default"), ("namespaces", "team-a")])
def test_commands_can_be_pasted(name: str, namespace: str, tmp_path: Path) -> None:
    notes = render(values_of(name)).notes
    commands = notes[notes.index("kubectl apply") : notes.index("3. Watch")]
    commands += "".join(line for line in notes.splitlines(True) if " dbj my-mug" in line)
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    calls, applied = tmp_path / "calls", tmp_path / "job.yaml"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "APPLIED": str(applied),
    }
    shell = subprocess.run(
        ["sh"], input=commands, env=environment, text=True, capture_output=True, check=True
    )
    assert shell.stderr == ""
    assert calls.read_text().splitlines() == [
        "apply -f -",
        f"--namespace {namespace} get dbj my-mug --watch",
        f"--namespace {namespace} describe dbj my-mug",
    ]
    job = load(applied)
    assert (job.metadata.namespace, job.metadata.name) == (namespace, "my-mug")


@pytest.mark.parametrize(
    ("quota", "preflight", "warned"),
    [
        ({"nvidia.com/gpu": 16}, {}, True),
        ({"nvidia.com/gpu": 16, "cpu": 64}, {}, True),
        ({"nvidia.com/gpu": 16, "cpu": 64, "memory": "1Ti"}, {}, False),
        ({"nvidia.com/gpu": 16}, {"queue": "cpus"}, False),
        ({"nvidia.com/gpu": 16}, {"runIn": "FirstPod"}, False),
    ],
)
def test_quota_that_admits_no_preflight_is_warned_of(
    quota: dict[str, object], preflight: dict[str, str], warned: bool
) -> None:
    values = values_of(
        "minimal",
        kueue={"enabled": True, "quota": quota, "namespaces": ["team-a"]},
        settings={"jobDefaults": {"preflight": preflight}},
    )
    assert ("CAUTION: kueue.quota lacks cpu or memory" in render(values).notes) is warned
