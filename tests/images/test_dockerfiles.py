"""hadolint has nothing to say about the Dockerfiles."""

import subprocess
import sys
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_hadolint_finds_nothing(name: str) -> None:
    command = [HADOLINT, "--no-color", IMAGES / f"{name}.Dockerfile"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
