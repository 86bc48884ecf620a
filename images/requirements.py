"""Prints what our packages need from elsewhere, for a layer that changes less often than they do.

`python3 requirements.py crds trainer[wandb]` reads pyproject.toml in each of the folders.
"""

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

OWN = "dreambooth-"
"""How the names of our own packages begin."""


def requirements(package: str) -> Iterator[str]:
    """The requirements of a package, given as FOLDER or FOLDER[EXTRA,...]."""
    folder, _, extras = package.removesuffix("]").partition("[")
    project = tomllib.loads((Path(folder) / "pyproject.toml").read_text())["project"]
    yield from (each for each in project["dependencies"] if not each.startswith(OWN))
    for extra in filter(None, extras.split(",")):
        yield from project["optional-dependencies"][extra]


def main(packages: Sequence[str]) -> None:
    """Write one requirement on each line."""
    for package in packages:
        sys.stdout.writelines(f"{each}\n" for each in requirements(package))


if __name__ == "__main__":
    main(sys.argv[1:])
