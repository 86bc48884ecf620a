"""A control plane with the CRD, for the tests of what talks to one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.client import connect
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.kubectl import Kubectl

CRD = Path(__file__).parents[3] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that knows DreamBoothJobs, one per test process."""
    with control_plane(tmp_path_factory.mktemp("plane")) as started:
        Kubectl(started.kubeconfig).apply_definition(CRD)
        yield started


@pytest.fixture
def namespace(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace of its own, deleted afterwards; KUBECONFIG names the control plane."""
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    name = f"test-{secrets.token_hex(3)}"

    async def create() -> None:
        async with connect(plane.kubeconfig, "tests") as client:
            await client.create("/api/v1/namespaces", {"metadata": {"name": name}})

    async def delete() -> None:
        async with connect(plane.kubeconfig, "tests") as client:
            await client.delete(f"/api/v1/namespaces/{name}")

    asyncio.run(create())
    yield name
    asyncio.run(delete())


@pytest.fixture
def kubectl(plane: ControlPlane, namespace: str) -> Kubectl:
    """Kubectl in that namespace."""
    return Kubectl(plane.kubeconfig, namespace)
