"""What each extra of dreambooth-operator must do without: the packages of the others.

Each check runs in a process in which these packages cannot be imported, as in an environment in
which they are not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINER = ("torch", "diffusers", "transformers", "pytorch_lightning", "dreambooth_trainer")
CONTROLLER = ("aiohttp", "kopf", "kubernetes", "prometheus_client")
CLI = ("boto3", "dreambooth_report", "dreambooth_storage", "rich", "typer")

BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *arguments: str, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that cannot import the blocked packages."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ,
    )


def dreambooth(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with what `dreambooth-operator[cli]` installs."""
    code = "from dreambooth_operator.cli.main import main; main()"
    return run(code, *arguments, blocked=TRAINER + CONTROLLER)


def test_blocked_packages_cannot_be_imported() -> None:
    blocked = TRAINER + CONTROLLER + CLI
    code = f"""
import importlib
for package in {blocked!r}:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        print(package)
"""
    assert run(code, blocked=blocked).stdout.split() == list(blocked)


def test_cli_validates_without_the_packages_of_controller_and_trainer() -> None:
    ended = dreambooth("validate", "examples/quickstart.yaml")
    assert ended.returncode == 0, ended.stderr


def test_cli_renders_without_the_packages_of_controller_and_trainer() -> None:
    ended = dreambooth("render", "examples/quickstart.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "kind: Job" in ended.stdout


@pytest.mark.parametrize("module", ["manifests.resources", "manifests.serialize"])
def test_manifests_need_no_extra(module: str) -> None:
    ended = run(f"import dreambooth_operator.{module}", blocked=TRAINER + CONTROLLER + CLI)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["observability.definitions", "app.settings", "app.permissions"])
def test_chart_is_generated_without_the_packages_of_a_running_operator(module: str) -> None:
    code = f"import dreambooth_operator.controller.{module}"
    ended = run(code, blocked=TRAINER + CONTROLLER + CLI)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["app.operator", "__main__"])
def test_controller_needs_neither_trainer_nor_cli(module: str) -> None:
    code = f"import dreambooth_operator.controller.{module}"
    ended = run(code, blocked=TRAINER + CLI)
    assert ended.returncode == 0, ended.stderr
