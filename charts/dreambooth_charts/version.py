"""The version of packages, chart and images: VERSION at the top, copied to where tools look for it.

Build backends and Helm read only files of their own folder, so the copies are generated files.
"""

import re
from pathlib import Path

from dreambooth_api.codegen.files import REPOSITORY, Files

PACKAGES = ("crds", "storage", "report", "operator", "trainer", "charts")
CHART_FILE = Path("charts", "dreambooth-operator", "Chart.yaml")


def version() -> str:
    """The project's version, from VERSION."""
    return (REPOSITORY / "VERSION").read_text(encoding="utf-8").strip()


def versioned_files() -> Files:
    """Every pyproject.toml and Chart.yaml, with the project's version in place of the old one."""
    number = version()
    files = {
        path: _replaced(path, r'^version = ".*"$', f'version = "{number}"')
        for path in (Path(package, "pyproject.toml") for package in PACKAGES)
    }
    files[CHART_FILE] = _replaced(CHART_FILE, r"^(version|appVersion): .*$", rf"\1: {number}")
    return files


def _replaced(path: Path, pattern: str, replacement: str) -> str:
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    return re.sub(pattern, replacement, text, flags=re.MULTILINE)
