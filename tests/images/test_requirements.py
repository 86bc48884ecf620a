"""What the images install beside our own packages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed(*packages: str) -> str:
    command = [sys.executable, "images/requirements.py", *packages]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_requirements_of_several_packages_and_an_extra() -> None:
    lines = printed("crds", "trainer[wandb]").splitlines()
    names = {line.partition(">=")[0] for line in lines}
    assert {"pydantic", "torch", "wandb"} <= names
    assert not [name for name in names if name.startswith("dreambooth")]


@pytest.mark.parametrize("package", ["operator[cli,controller]", "trainer[wandb]"])
def test_our_own_packages_are_left_out(package: str) -> None:
    assert "dreambooth" not in printed(package)


def test_an_extra_is_not_installed_unasked() -> None:
    assert "seaweedfs" not in printed("operator")
