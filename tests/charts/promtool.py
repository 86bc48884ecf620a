"""Prometheus' own tool for rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None and "CI" not in os.environ,
    reason="needs promtool: apt-get install prometheus",
)


def promtool(*arguments: str | Path) -> None:
    """Run it; fails with what it says when it finds something wrong."""
    done = subprocess.run(
        ["promtool", *arguments], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
