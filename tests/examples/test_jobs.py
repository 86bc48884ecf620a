"""The job files that people copy are accepted, render, and do what their comments say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_api.models.pods.runtime import world_size
from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.load import load
from tests.charts.pod_security import violations

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
NAMES = {
    "quickstart",
    "quickstart-flow",
    "lora-one-gpu",
    "learned-token",
    "qlora-12gb",
    "full-2x8",
    "several-subjects",
    "spot-nodes",
    "more-steps",
    "auto-captions",
    "many-subjects",
}
SHORTEST_NOTICE = 30
"""Seconds between a cloud's notice and the end of a spot node."""

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def dreambooth(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dreambooth_operator.cli.main import main; main()"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def test_there_are_ten() -> None:
    assert {path.stem for path in FILES} == NAMES


def test_more_steps_differ_from_the_job_that_they_follow_in_nothing_else() -> None:
    job, more = (load(EXAMPLES / f"{name}.yaml") for name in ("lora-one-gpu", "more-steps"))
    assert more.spec.resume_from is not None
    assert more.spec.resume_from.job == job.metadata.name
    assert more.spec.training.steps > job.spec.training.steps
    more.spec.training.steps, more.spec.resume_from = job.spec.training.steps, None
    assert more.spec == job.spec


@every_file
def test_file_is_valid_without_a_doubt(path: Path) -> None:
    result = dreambooth("validate", str(path))
    assert (result.returncode, result.stdout) == (0, f"{path}: valid\n")
    kept = "keep it only as a comparison"  # a prompt about mugs in general, which is meant so
    assert [line for line in result.stderr.splitlines() if kept not in line] == []


@every_file
def test_file_renders_to_pods_that_need_no_privilege(path: Path) -> None:
    result = dreambooth("render", str(path), "--image", "registry.example.com/trainer:1")
    assert result.returncode == 0, result.stderr
    manifests = list(yamljson.documents(result.stdout))
    assert [m["kind"] for m in manifests] == ["Service", "ConfigMap", "Job", "Job"]
    for job in manifests[2:]:
        assert violations(job["spec"]["template"]["spec"]) == []


@every_file
def test_file_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_two_nodes_with_eight_gpus_wait_in_a_queue() -> None:
    job = load(EXAMPLES / "full-2x8.yaml")
    assert world_size(job.spec.runtime) == 16
    assert job.spec.runtime.queue
    attempt = _attempt("full-2x8")
    assert attempt["spec"]["suspend"] is True
    (container,) = attempt["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_several_subjects_are_shown_alone_and_together() -> None:
    spec = load(EXAMPLES / "several-subjects.yaml").spec
    words = [subject.identifier for subject in spec.subjects]
    shown = [[word for word in words if word in prompt] for prompt in spec.samples.prompts]
    assert {tuple(found) for found in shown} >= {(word,) for word in words}
    assert any(len(found) > 1 for found in shown)


def test_spot_nodes_are_left_in_time_and_given_up_soon() -> None:
    job = load(EXAMPLES / "spot-nodes.yaml")
    runtime, checkpoints = job.spec.runtime, job.spec.checkpoints
    assert runtime.termination_grace_period_seconds <= SHORTEST_NOTICE
    assert runtime.terminating_timeout_seconds <= 60
    assert job.spec.training.steps >= 10 * checkpoints.every
    default = yaml.safe_load((EXAMPLES / "full-2x8.yaml").read_text())["spec"]["runtime"]
    assert runtime.restart.max_failures > default["restart"]["maxFailures"]
    pod = _attempt("spot-nodes")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == runtime.termination_grace_period_seconds
    assert pod["priorityClassName"] == runtime.priority_class_name
    tolerated = {each["key"]: each.get("tolerationSeconds") for each in pod["tolerations"]}
    assert tolerated["node.kubernetes.io/unreachable"] == 30


def _attempt(name: str) -> dict[str, Any]:
    result = dreambooth("render", str(EXAMPLES / f"{name}.yaml"))
    _, _, attempt, _ = yamljson.documents(result.stdout)
    found: dict[str, Any] = attempt
    return found
