"""The operator's image, built for real, and a control plane for what runs in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl
from tests.images.containers import Image
from tests.images.store import ImageStore

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "dreambooth.dev_dreamboothjobs.yaml"
PROGRAMS = ("buildah", "debootstrap")


def _missing_requirement() -> str:
    """Why this machine cannot build and run images; empty when it can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"install {', '.join(missing)}"
    return "root is needed" if os.geteuid() else ""


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> ImageStore:
    """Images of the tests. Kept between runs: only what has changed is built again."""
    if reason := _missing_requirement():
        # Continuous integration must not pass without having built anything.
        leave = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        leave(f"images cannot be built here: {reason}")
    assert request.config.cache is not None
    return ImageStore(Path(request.config.cache.mkdir("images")))


@pytest.fixture(scope="session")
def operator_image(store: ImageStore) -> Iterator[Image]:
    """The operator's image as `images/build.py` builds it."""
    with store.built("operator") as image:
        yield image


@pytest.fixture(scope="session")
def trainer_image(store: ImageStore) -> Iterator[Image]:
    """The trainer's image for CPUs."""
    with store.built("trainer", "--torch-variant=cpu") as image:
        yield image


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that knows DreamBoothJobs."""
    with control_plane(tmp_path_factory.mktemp("plane")) as started:
        Kubectl(started.kubeconfig).apply_definition(CRD)
        yield started
