"""The project around the code: one version, licenses, make targets, and what a release checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version as installed
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

from dreambooth_charts.version import CHART_FILE, PACKAGES, version
from dreambooth_operator.cli.main import app
from dreambooth_operator.local.state import DEFAULT_STATE

ROOT = Path(__file__).parents[1]
PYPROJECTS = [ROOT / package / "pyproject.toml" for package in PACKAGES]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packages_and_chart_have_the_projects_version() -> None:
    for path in PYPROJECTS:
        assert tomllib.loads(path.read_text())["project"]["version"] == version(), path
    chart = yaml.safe_load((ROOT / CHART_FILE).read_text())
    assert (chart["version"], chart["appVersion"]) == (version(), version())


def test_the_command_line_prints_the_version_of_its_package() -> None:
    result = CliRunner().invoke(app, ["version"])
    assert result.output.strip() == installed("dreambooth-operator")


def test_every_package_and_the_chart_are_under_the_license() -> None:
    license_text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0" in license_text
    for path in PYPROJECTS:
        project = tomllib.loads(path.read_text())["project"]
        assert project["license"] == "Apache-2.0"
        assert project["license-files"] == ["LICENSE"]
        assert (path.parent / "LICENSE").read_text() == license_text
    chart = yaml.safe_load((ROOT / CHART_FILE).read_text())
    assert chart["annotations"]["artifacthub.io/license"] == "Apache-2.0"


def test_help_lists_every_target() -> None:
    (phony,) = re.findall(
        r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", ""), re.M
    )
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert {line.split()[0] for line in shown.splitlines()} == set(phony.split())


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """Runs a target in a folder of its own, as it would run in a clone that is set up.

    `dreambooth` prints its arguments there. Returns what make prints.
    """
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for path in ("Makefile", "constraints.txt", *PYPROJECTS, "pyproject.toml"):
        target = tmp_path / (ROOT / path).relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, target)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "dreambooth"
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()

    def run(target: str) -> str:
        return subprocess.run(
            ["make", "--silent", "--no-print-directory", "-C", tmp_path, target],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    return run


def test_demo_keeps_its_runs_apart_and_deletes_none(make: Callable[..., str]) -> None:
    arguments = make("demo").split()
    state = Path(arguments[arguments.index("--state") + 1])
    assert DEFAULT_STATE not in (state, *state.parents)
    assert "--fresh" not in arguments


def test_clean_keeps_the_results_of_runs(make: Callable[..., str], tmp_path: Path) -> None:
    kept = [tmp_path / name / "runs" / "mug" for name in (".dreambooth", ".dreambooth-demo")]
    for folder in kept:
        folder.mkdir(parents=True)
    make("clean")
    assert not (tmp_path / ".venv").exists()
    assert all(folder.exists() for folder in kept)


@pytest.mark.parametrize(
    ("changelog", "problem"),
    [
        ("## [Unreleased]\n\n- all\n", "no section '## [1.2.3] - YYYY-MM-DD'"),
        ("## [1.2.3]\n\n- all\n", "no section '## [1.2.3] - YYYY-MM-DD'"),
        ("## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2026-01-30\n- all", "nothing under [1.2.3]"),
    ],
    ids=["unreleased", "no date", "empty"],
)
def test_a_release_needs_a_changelog(release: ModuleType, changelog: str, problem: str) -> None:
    (found,) = release.changelog_problems(changelog, "1.2.3")
    assert problem in found


def test_a_described_version_can_be_released(release: ModuleType) -> None:
    changelog = "## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n- all\n\n## [1.2.2] - 2026-01-30\n"
    assert release.changelog_problems(changelog, "1.2.3") == []


@pytest.mark.parametrize("torch", ["oldest", "newest"])
def test_constraints_for_another_torch_keep_everything_else(torch: str) -> None:
    command = [sys.executable, ".ci/constraints.py", torch]
    lines = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    named = [line for line in lines if line.startswith("torch==")]
    assert len(named) == (torch == "oldest")
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    left_out = {line.partition("==")[0] for line in set(pinned) - set(lines)}
    assert {"torch", "triton", "nvidia-cublas"} <= left_out
    assert all(re.match("torch$|triton|nvidia-|cuda-", name) for name in left_out)


def test_kind_names_the_programs_that_are_missing(tmp_path: Path) -> None:
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    result = subprocess.run(
        [ROOT / ".ci" / "kind"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "not installed: docker kind kubectl helm" in result.stderr


def test_the_workflow_covers_the_supported_versions() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"][0] == "3.11"
    tested = {"pinned", *(each["torch"] for each in matrix["include"])}
    assert tested == {"oldest", "pinned", "newest"}
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == ".ci/run"


def test_one_line_says_what_is_skipped_without_kubernetes_own_programs() -> None:
    environment = {name: v for name, v in os.environ.items() if name != "KUBEBUILDER_ASSETS"}
    files = ["test_apiserver_differential.py", "test_controllers_nodes.py"]
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        + [f"tests/cluster/{name}" for name in files],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    assert len(re.findall("^SKIPPED", shown, re.MULTILINE)) == 1
    assert "KUBEBUILDER_ASSETS" in shown
    assert "[ours-on-the-double]" in shown
    assert "kubernetes]" not in shown
