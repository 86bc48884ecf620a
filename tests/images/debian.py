"""A base image from Debian's packages alone: no registry of images is needed."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGES = "python3,ca-certificates"
NOT_NEEDED = (
    "usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/cache/apt",
    "var/lib/apt/lists",
)  # fmt: skip


def debian_with_python(folder: Path) -> Path:
    """A tar file of this machine's release of Debian with its Python; made once per folder."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    made = folder / f"debian-{suite}.tar"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            root, tar = Path(scratch) / "root", Path(scratch) / "root.tar"
            _bootstrap(suite, root)
            subprocess.run(["tar", "--create", "--file", tar, "--directory", root, "."], check=True)
            tar.rename(made)
    return made


def _bootstrap(suite: str, root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
    subprocess.run([*command, suite, root, _mirror(suite)], check=True)
    for folder in NOT_NEEDED:
        shutil.rmtree(root / folder)
        (root / folder).mkdir()


def _mirror(suite: str) -> str:
    """Where this machine's apt gets the release from."""
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        release, component, place = line.split()
        if (release, component) == (suite, "main"):
            return place
    raise LookupError(f"apt has no source for the main packages of {suite}")
