"""The operator's image, built by buildah and run as the chart would have it."""

from __future__ import annotations

import json
import signal
import stat
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.charts.rendering import NAMESPACE, Rendered, render, values_of
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubectl import Kubectl, eventually
from tests.images.containers import COMPILERS, Container, Image, running
from tests.operator.controller.parts import job_body
from tests.ports import free_ports

pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).parents[2]
MEGABYTE = 10**6
USERS = pytest.mark.parametrize("user", ["65532:65532", "1000650000:0"])


def test_it_is_small(operator_image: Image) -> None:
    sizes = {s.st_ino: s.st_size for s in map(Path.lstat, operator_image.files())}
    assert sum(sizes.values()) < 250 * MEGABYTE


def test_it_holds_no_torch_and_no_compiler(operator_image: Image) -> None:
    assert not {path.name for path in operator_image.files()}.intersection(COMPILERS)
    packages = operator_image.packages()
    assert "dreambooth_operator" in packages
    assert not packages.intersection({"torch", "diffusers", "dreambooth_trainer", "pip"})


def test_its_files_belong_to_root_and_nobody_else_may_write_them(operator_image: Image) -> None:
    assert [path.name for path in (operator_image.root / "opt").iterdir()] == ["venv"]
    for path in (operator_image.root / "usr/bin/tini", *operator_image.root.rglob("opt/venv/**/*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (0, 0), path
        assert path.is_symlink() or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH), path


def package() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())
    return dict(project["project"])


def test_it_says_what_it_is(operator_image: Image) -> None:
    prefix = "org.opencontainers.image."
    labels = operator_image.config["Labels"]
    assert labels[f"{prefix}version"] == package()["version"]
    assert len(labels[f"{prefix}revision"].removesuffix("-dirty")) == 40
    assert operator_image.config["User"] == "65532:65532"
    programs = operator_image.root / "opt" / "venv" / "bin"
    assert all((programs / name).is_file() for name in package()["scripts"])


Run = Callable[..., AbstractContextManager[Container]]


@pytest.fixture
def run(
    operator_image: Image, plane: ControlPlane, tmp_path: Path
) -> Callable[..., AbstractContextManager[Container]]:
    """A function that runs the operator as the chart does.

    The volume of its settings also holds the kubeconfig.
    """

    @contextmanager
    def start(chart: Rendered, user: str, *args: str) -> Iterator[Container]:
        settings = tmp_path / "settings"
        settings.mkdir()
        (settings / "settings.yaml").write_text(chart.one("ConfigMap")["data"]["settings.yaml"])
        (settings / "kubeconfig").write_text(plane.kubeconfig.read_text())
        (container,) = chart.pod["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        with running(
            operator_image,
            container | ({"args": args} if args else {}),
            user,
            tmp_path / "log",
            volumes={mount["name"]: settings},
            environment={"KUBECONFIG": f"{mount['mountPath']}/kubeconfig"},
        ) as started:
            yield started

    return start


def answer(port: int, path: str) -> int:
    """The status code of an answer; 0: none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return int(found.status)
    except OSError as error:
        return int(getattr(error, "code", 0))


@USERS
def test_operator_works_until_it_is_told_to_end(run: Run, plane: ControlPlane, user: str) -> None:
    (port,) = free_ports(1)
    kubectl = Kubectl(plane.kubeconfig, NAMESPACE)
    if Kubectl(plane.kubeconfig).get("namespace", NAMESPACE) is None:
        kubectl.create_namespace(NAMESPACE)
    job = f"mug-{user.partition(':')[0]}"
    with run(render(values_of("minimal", settings={"metricsPort": port})), user) as operator:
        operator.daemon.wait_ready(lambda: answer(port, "/readyz") == 200, 60)
        assert answer(port, "/healthz") == 200
        kubectl("apply", "-f", "-", input=json.dumps(job_body(NAMESPACE, job)))
        assert eventually(lambda: kubectl.get("job", f"{job}-preflight") is not None)
        operator.signal(signal.SIGTERM)
        assert eventually(lambda: not operator.daemon.alive, seconds=15)
        assert operator.daemon.returncode == 0, operator.daemon.tail()
    lines = operator.daemon.log.read_text().splitlines()
    assert {json.loads(line)["level"] for line in lines} == {"info"}


def test_it_ends_at_once_while_it_does_not_listen_to_signals_yet(run: Run) -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    with run(render(values_of("minimal")), "65532:65532", "python", "-c", program) as container:
        container.daemon.wait_ready(lambda: "up" in container.daemon.tail(), 30)
        container.signal(signal.SIGTERM)
        assert eventually(lambda: not container.daemon.alive, seconds=5)
        assert container.daemon.returncode == 128 + signal.SIGTERM


def test_the_dreambooth_command_is_there(run: Run) -> None:
    with run(render(values_of("minimal")), "65532:65532", "dreambooth", "version") as container:
        assert eventually(lambda: not container.daemon.alive, seconds=30)
        assert container.daemon.returncode == 0, container.daemon.tail()
        assert package()["version"] in container.daemon.tail()


def test_its_files_cannot_be_changed(run: Run) -> None:
    program = "open('/opt/venv/new', 'w')"
    with run(render(values_of("minimal")), "0:0", "python", "-c", program) as container:
        assert eventually(lambda: not container.daemon.alive, seconds=30)
        assert "Read-only file system" in container.daemon.tail()
