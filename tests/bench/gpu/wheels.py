"""`make wheels-gpu`: what a machine with torch and transformers alone lacks, as a folder of wheels.

The packages are those that the trainer needs without those that torch or transformers need, in the
versions of this environment.
"""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LIMIT = 60_000_000
"""Bytes of all wheels."""
OWN = ("dreambooth-api", "dreambooth-report", "dreambooth-storage", "dreambooth-trainer")
"""They travel as source."""
PRESENT = ("torch", "transformers")
NOT_IMPORTED = ("bitsandbytes", "tensorboard", "setuptools")
"""Of the packages that the trainer or Lightning names, those that the rows run without. With
bitsandbytes, of 43 MB, the rows on frozen weights in few bits measure NF4 too."""


def missing_packages() -> list[str]:
    """Requirements `name==version`, sorted, for pip."""
    present = _closure(PRESENT, skip=("pydantic",))  # newer versions alone of transformers need it
    names = _closure(OWN, skip={*PRESENT, *NOT_IMPORTED}) - present - {*OWN}
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in names)


def _closure(roots: Iterable[str], skip: Iterable[str] = ()) -> set[str]:
    """Installed packages that these need, themselves included, without extras."""
    found: set[str] = set()
    waiting = [*roots]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found or name in skip:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def download(folder: Path) -> int:
    """Download the wheels into an empty folder; returns their bytes.

    Raises:
        SystemExit: pip fails, the folder has files, or the wheels exceed `LIMIT`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} has files already; delete them or name another folder")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    # Without dependencies: they would bring torch and the libraries of CUDA.
    options = ("--no-deps", "--only-binary=:all:", "--dest", str(folder))
    if subprocess.run([*pip, *options, *missing_packages()], check=False).returncode:
        sys.exit("pip could not download the wheels: see above")
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LIMIT:
        sys.exit(f"the wheels take {size / 1e6:.0f} MB, more than {LIMIT / 1e6:.0f}")
    return size


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.stdout.write(f"{download(target) / 1e6:.1f} MB in {target}\n")
