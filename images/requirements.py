"""Prints the third-party requirements of our packages, for a layer that changes less often.

`python3 requirements.py crds trainer[wandb]` reads pyproject.toml in each of the folders.
"""

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

OWN = "dreambooth-"
"""Prefix of the names of our own packages."""


def requirements(package: str) -> Iterator[str]:
    """Third-party requirements of a package, given as FOLDER or FOLDER[EXTRA,...]."""
    folder, _, extras = package.removesuffix("]").partition("[")
    project = tomllib.loads((Path(folder) / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"]]
    groups += [project["optional-dependencies"][extra] for extra in extras.split(",") if extra]
    yield from (each for group in groups for each in group if not each.startswith(OWN))


def main(packages: Sequence[str]) -> None:
    """Write one requirement on each line."""
    for package in packages:
        sys.stdout.writelines(f"{each}\n" for each in requirements(package))


if __name__ == "__main__":
    main(sys.argv[1:])
