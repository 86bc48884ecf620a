"""Builds a release into dist/: `python .ci/release.py`.

Checks first that every copy of the version is up to date and that the changelog has a section for
it. Then builds an sdist and a wheel of each package, and packages the chart.
"""

import re
import subprocess
import sys
from pathlib import Path

import helm_python as helm

from dreambooth_api.codegen import files
from dreambooth_charts.version import CHART_FILE, PACKAGES, version, versioned_files

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"


def main() -> None:
    """Check, then build; exits with a message when a check or a build fails."""
    number = version()
    if problems := files.differences(ROOT, versioned_files()) + changelog_problems(
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), number
    ):
        sys.exit("\n".join([*problems, "", "Nothing was built."]))
    DIST.mkdir(exist_ok=True)
    for package in PACKAGES:
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST)]
        subprocess.run([*command, str(ROOT / package)], check=True)
    chart = helm.package(ROOT / CHART_FILE.parent, destination=DIST)
    sys.stdout.write(f"\nBuilt {number} in {DIST}, with {Path(chart).name}\n")


def changelog_problems(text: str, number: str) -> list[str]:
    """Why a changelog does not describe a release; empty when it does."""
    heading = re.compile(rf"^## \[{re.escape(number)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", re.MULTILINE)
    if not (found := heading.search(text)):
        return [
            f"CHANGELOG.md has no section '## [{number}] - YYYY-MM-DD': move what is under"
            " Unreleased into one"
        ]
    body = text[found.end() :].partition("\n## ")[0]
    return [] if body.strip() else [f"CHANGELOG.md says nothing under [{number}]"]


if __name__ == "__main__":
    main()
