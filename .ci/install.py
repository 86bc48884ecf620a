"""Installs packages into the environment of this Python, and shows what it does meanwhile.

`python .ci/install.py --constraint FILE [--torch-backend auto] -e PACKAGE ...`: what is not an
option of this program is passed to `pip install`.

PyTorch comes first. The build that pip finds is often one for CUDA, which takes gigabytes: without
a GPU, uv installs the CPU build of the same version, since uv knows where PyTorch keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
STAGE = re.compile(r"\s*((?:Collecting|Downloading|Obtaining|Building|Installing|Preparing) .*)")
PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def main() -> None:
    """Install pip, PyTorch and the packages.

    Raises:
        SystemExit: Something cannot be installed; its output is printed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraint", required=True, metavar="FILE")
    parser.add_argument("--torch-backend", default="auto", help="auto, default, or one of uv")
    options, packages = parser.parse_known_args()
    constraint = ("--constraint", options.constraint)
    _require("pip", [*PIP, "install", "--upgrade", *constraint, "pip"])
    backend = torch_backend(
        options.torch_backend, has_gpu(), lambda: is_cuda_build(_pips_choice(constraint))
    )
    if backend != "default" and not _install_torch(backend, constraint):
        _print(
            f"PyTorch for {backend} cannot be fetched; installing the default build instead,"
            " which takes about 4 GB more if it is for CUDA\n"
        )
    install = [*PIP, "install", "--progress-bar=raw", *constraint]
    _require("packages", [*install, *packages])


def torch_backend(asked: str, gpu: bool, cuda_build: Callable[[], bool]) -> str:
    """The build of PyTorch to install: uv's name of a backend, or `default` for pip's choice."""
    if asked != "auto":
        return asked
    return "cpu" if not gpu and cuda_build() else "default"


def has_gpu() -> bool:
    """Whether this machine has the driver of an NVIDIA GPU."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def is_cuda_build(report: dict[str, Any]) -> bool:
    """Whether the package of an installation report of pip needs the libraries of CUDA."""
    (package,) = report["install"]
    requires = package["metadata"].get("requires_dist", [])
    return any(re.match("nvidia-|cuda-|triton", requirement) for requirement in requires)


def _pips_choice(constraint: Sequence[str]) -> dict[str, Any]:
    """The report of pip on the PyTorch that it would install; only metadata is downloaded."""
    dry_run = ("--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
    command = [*PIP, "install", *dry_run, *constraint, "torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr}\nPyTorch cannot be installed: see above")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _install_torch(backend: str, constraint: Sequence[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        pip = [*PIP, "install", "--target", folder, "uv"]
        uv = [
            f"{folder}/bin/uv", "pip", "install", "--python", sys.executable, "--no-deps",
            f"--torch-backend={backend}", *constraint, "torch",
        ]  # fmt: skip
        return all(not run(f"PyTorch for {backend}", command)[0] for command in (pip, uv))


def _require(title: str, command: Sequence[str]) -> None:
    code, output = run(title, command)
    if code:
        sys.exit(f"{output}\n{title} cannot be installed: see above")


def run(title: str, command: Sequence[str], interval: float | None = None) -> tuple[int, str]:
    """Run a command to its end; returns its exit code and output.

    Shows how far it is, every second on a terminal; in a log, what is new every ten.
    """
    terminal = sys.stdout.isatty()
    interval = interval or (1 if terminal else 10)
    began = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        code, shown = None, ""
        while code is None:
            try:
                code = process.wait(interval)
            except subprocess.TimeoutExpired:
                now = stage(_read(log.name))
                if terminal or now != shown:
                    _show(f"installing {title}", began, now, terminal)
                shown = now
        output = _read(log.name)
    _show(f"{'failed' if code else 'installed'} {title}", began, "", terminal)
    if terminal:
        _print("\n")
    return code, output


def _read(name: str) -> str:
    # While it is written, a character may be there in part.
    return Path(name).read_text(errors="replace")


def stage(output: str) -> str:
    """What pip does now, from its output so far."""
    output = re.sub(
        r"Installing collected packages: (.*)",
        lambda match: f"Installing {len(match[1].split(', '))} packages",
        output,
    )
    lines = output.splitlines()
    stages = [match[1] for line in lines if (match := STAGE.fullmatch(line))]
    progress = PROGRESS.fullmatch(lines[-1]) if lines else None
    share = f" {100 * int(progress[1]) // max(int(progress[2]), 1)} %" if progress else ""
    return (stages[-1] if stages else "") + share


def _show(what: str, began: float, now: str, terminal: bool) -> None:
    line = f"{what} ({time.monotonic() - began:.0f} s) {now}".rstrip()
    if terminal:
        width = shutil.get_terminal_size().columns - 1
        _print(f"\r\033[K{line[:width]}")
    else:
        _print(f"{line}\n")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
