"""Images built by buildah in a store of their own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.images.containers import Image
from tests.images.debian import debian_with_python

ROOT = Path(__file__).parents[2]
BASE = "localhost/debian-with-python"
TAG = "test"


class ImageStore:
    """A folder of images, and of the layers that they are made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        settings = folder / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "{_driver(folder)}"\n'
            f'graphroot = "{folder / "layers"}"\nrunroot = "{folder / "run"}"\n'
        )
        self._environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",  # works in a container as well
            "CONTAINERS_STORAGE_CONF": str(settings),
        }

    @contextmanager
    def built(self, name: str, *options: str) -> Iterator[Image]:
        """One of our images on a base of Debian, as it is now, with its files mounted."""
        with self._locked():
            self._build_base()
            program = [sys.executable, str(ROOT / "images" / "build.py"), name, "--builder=buildah"]
            self._run(*program, f"--base-image={BASE}", f"--tag={TAG}", *options)
        tag = f"localhost/dreambooth-{name}:{TAG}"
        container = self._buildah("from", tag)
        try:
            root = Path(self._buildah("mount", container))
            inspected: dict[str, Any] = json.loads(self._buildah("inspect", "--type=image", tag))
            yield Image(root, inspected["OCIv1"]["config"])
        finally:
            self._buildah("rm", container)

    def _build_base(self) -> None:
        tar = debian_with_python(self._folder)
        recipe = self._folder / "base.Dockerfile"
        recipe.write_text(f"FROM scratch\nADD {tar.name} /\n")
        command = ["build", "--quiet", "--layers", "--file", str(recipe), "--tag", BASE]
        self._buildah(*command, str(self._folder))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process of the tests at a time: the second one finds everything built."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _buildah(self, *arguments: str) -> str:
        return self._run("buildah", *arguments)

    def _run(self, *command: str) -> str:
        """What a command prints; raises with all of its output when it fails."""
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
        return done.stdout.strip()


def _driver(folder: Path) -> str:
    """`overlay`, or `vfs` where folders cannot be laid over each other, as in a container."""
    places = [f"--root={folder / 'layers'}", f"--runroot={folder / 'run'}"]
    probe = ["buildah", *places, "--storage-driver=overlay", "info"]
    return "vfs" if subprocess.run(probe, capture_output=True).returncode else "overlay"
