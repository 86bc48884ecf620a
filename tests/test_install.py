"""Setting up: which build of PyTorch, what is installed for whom, and what is shown meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = spec_from_file_location("install", ROOT / ".ci" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _never() -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    ("asked", "gpu", "cuda_build", "expected"),
    [
        ("auto", False, lambda: True, "cpu"),
        ("auto", False, lambda: False, "default"),
        ("auto", True, _never, "default"),
        ("default", False, _never, "default"),
        ("cu130", False, _never, "cu130"),
    ],
)
def test_the_cpu_build_is_taken_where_pip_would_bring_cuda_without_a_gpu(
    install: ModuleType, asked: str, gpu: bool, cuda_build: Callable[[], bool], expected: str
) -> None:
    assert install.torch_backend(asked, gpu, cuda_build) == expected


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        (["sympy", "nvidia-cudnn-cu13==9.20.0.48; platform_system == 'Linux'"], True),
        (["triton==3.7.1; platform_system == 'Linux'"], True),
        (["cuda-bindings<14"], True),
        (["sympy", "networkx>=2.5.1"], False),
    ],
)
def test_a_cuda_build_is_known_by_what_it_requires(
    install: ModuleType, requirements: list[str], expected: bool
) -> None:
    report = {"install": [{"metadata": {"requires_dist": requirements}}]}
    assert install.is_cuda_build(report) is expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", ""),
        ("Collecting torch\n  WARNING: odd\n", "Collecting torch"),
        (
            "Collecting a\n  Downloading a.whl (9 MB)\nProgress 3 of 9\n",
            "Downloading a.whl (9 MB) 33 %",
        ),
        ("Installing collected packages: a, b, c\n", "Installing 3 packages"),
    ],
)
def test_progress_is_what_pip_does_now(install: ModuleType, output: str, expected: str) -> None:
    assert install.stage(output) == expected


def test_progress_is_shown_while_a_command_runs(
    install: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import time; print('Collecting torch'); time.sleep(2); print('a warning')"
    code, output = install.run("packages", [sys.executable, "-c", program], interval=0.5)
    assert (code, output) == (0, "Collecting torch\na warning\n")
    *meanwhile, last = capsys.readouterr().out.splitlines()
    assert len([line for line in meanwhile if line.endswith("s) Collecting torch")]) == 1
    assert not any("warning" in line for line in meanwhile)
    assert last.startswith("installed packages (")


def test_a_command_that_fails_says_so(
    install: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = install.run("packages", [sys.executable, "-c", "exit('no such package')"])
    assert (code, output) == (1, "no such package\n")
    assert capsys.readouterr().out.startswith("failed packages (")


def _dry_run(folder: Path, target: str) -> str:
    return subprocess.run(
        ["make", "--dry-run", "--no-print-directory", f"VENV={folder}", target],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
    ).stdout


def test_the_demo_installs_the_server_but_no_controller_and_no_tools_for_developers(
    tmp_path: Path,
) -> None:
    (line,) = [line for line in _dry_run(tmp_path, "demo").splitlines() if "install.py" in line]
    assert "operator[cli,local]" in line
    assert "trainer[serve]" in line
    for left_out in ("--group", "controller", "wandb", "charts"):
        assert left_out not in line


def test_the_demo_installs_nothing_where_everything_is_there(tmp_path: Path) -> None:
    (tmp_path / ".ready").touch()
    assert "install.py" not in _dry_run(tmp_path, "demo")


@pytest.mark.parametrize("torch", ["oldest", "newest"])
def test_another_torch_has_constraints_of_its_own(
    tmp_path: Path, torch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH", torch)  # as the workflow's matrix sets it
    lines = _dry_run(tmp_path, "init")
    assert f".ci/constraints.py {torch} > {tmp_path}/constraints-{torch}.txt" in lines
    assert f"install.py --constraint {tmp_path}/constraints-{torch}.txt" in lines
    assert f"touch {tmp_path}/.ready-{torch}" in lines


def test_editable_installs_of_the_packages_warn_of_nothing() -> None:
    """Setuptools warns in many lines unless packages lie where `package-dir` says."""
    for path in ROOT.glob("*/pyproject.toml"):
        assert 'package-dir = {"" = "."}' in path.read_text(), path
