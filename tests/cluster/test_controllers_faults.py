"""Controllers crash and the API server fails or drops history: every Job still ends correctly."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.envtest import READY_SECONDS, answers
from tests.cluster.fake_cluster import JOBS, NAMESPACES, PODS, FakeCluster, fake_cluster
from tests.cluster.processes import Daemon
from tests.cluster.test_controllers_jobs import Run, attempt, conditions, counts, preflight

ROOT = Path(__file__).parents[2]
AGENT = "dreambooth-test-controllers"


class Controllers:
    """The controllers as a process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._daemon = module("controllers", self._folder)

    def kill(self) -> None:
        self._daemon.kill()


def module(name: str, folder: Path, *options: str) -> Daemon:
    command = [sys.executable, "-m", f"tests.cluster.{name}"]
    command += ["--kubeconfig", str(folder / "kubeconfig"), *options]
    return Daemon(name, command, folder / f"{name}.log", {**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an API server's double, which has no controllers yet."""
    folder = tmp_path_factory.mktemp("faults")
    server = module("apiserver", folder, "--port=0")
    try:
        server.wait_ready(lambda: answers(folder / "kubeconfig"), READY_SECONDS)
        yield folder
    finally:
        server.kill()


@pytest.fixture(scope="module")
def controllers(folder: Path) -> Iterator[Controllers]:
    running = Controllers(folder)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def plane(folder: Path, controllers: Controllers) -> Iterator[FakeCluster]:
    """The cluster of these tests, with one node."""
    with fake_cluster(folder / "kubeconfig") as cluster:
        cluster.add_node("node-a")
        yield cluster


@pytest.fixture
def space(plane: FakeCluster) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(3)}"
    plane.create(NAMESPACES, {"metadata": {"name": name}})
    yield name
    plane.delete("_double/faults")


def fail(plane: FakeCluster, method: str, path: str, code: int, times: int) -> None:
    """Let the next requests of the controllers that match fail."""
    fault = {"method": method, "path": path, "code": code, "times": times, "agent": AGENT}
    plane.create("_double/faults", fault)


def end_all(run: Run, code: int) -> None:
    for pod in run.pods:
        run.cluster.end(pod, code)


def test_what_happened_while_they_were_dead_is_found(
    plane: FakeCluster, space: str, controllers: Controllers
) -> None:
    run = Run(plane, space, attempt())
    run.wait_pods(2)
    controllers.kill()
    end_all(run, 0)
    controllers.start()
    job = run.wait_condition("Complete")
    assert job["status"]["succeeded"] == 2


def test_a_failure_is_counted_once_though_they_die_while_they_count(
    plane: FakeCluster, space: str, controllers: Controllers
) -> None:
    run = Run(plane, space, preflight())
    run.wait_pods(1)
    fail(plane, "PATCH", "/pods/preflight-", 500, -1)  # the pod keeps its finalizer
    end_all(run, 1)
    plane.wait(lambda: run.job["status"]["uncountedTerminatedPods"].get("failed"))
    assert "failed" not in run.job["status"]
    controllers.kill()
    plane.delete("_double/faults")
    controllers.start()
    plane.wait(lambda: run.job["status"].get("failed"))
    plane.sleep(0.5)
    assert run.job["status"]["failed"] == 1
    assert run.job["status"]["uncountedTerminatedPods"] == {}


@pytest.mark.parametrize("code", [409, 429, 500])
def test_writes_that_fail_are_tried_again(plane: FakeCluster, space: str, code: int) -> None:
    for method, path in (
        ("POST", f"/{space}/pods$"),
        ("POST", f"/{space}/pods/.*/binding"),
        ("PUT", f"/{space}/jobs/.*/status"),
        ("PATCH", f"/{space}/pods/"),
    ):
        fail(plane, method, path, code, 2)
    run = Run(plane, space, attempt())
    first, _ = run.wait_pods(2)
    plane.end(first, 64)
    job = run.wait_condition("Failed")
    assert [c[0] for c in conditions(job)] == ["FailureTarget", "Failed"]
    assert counts(job)["failed"] == 2
    assert [pod["metadata"]["uid"] for pod in run.pods] == [first["metadata"]["uid"]]


def test_an_api_server_that_was_away_is_followed_again(plane: FakeCluster, space: str) -> None:
    before = Run(plane, space, attempt())
    before.wait_pods(2)
    plane.create("_double/refuse", {"seconds": 2})
    plane.sleep(3)
    end_all(before, 0)
    before.wait_condition("Complete")
    after = attempt()
    after["metadata"]["name"] = "dog-1"
    Run(plane, space, after).wait_pods(2)


def test_a_history_that_was_forgotten_is_listed_again(plane: FakeCluster, space: str) -> None:
    run = Run(plane, space, attempt())
    run.wait_pods(2)
    plane.create("_double/history", {})
    plane.create("_double/watches", {"action": "close"})
    pod: dict[str, Any] = run.pods[0]
    plane.delete(f"{PODS.format(space)}/{pod['metadata']['name']}", gracePeriodSeconds=0)
    end_all(run, 0)
    plane.delete(f"{JOBS.format(space)}/dog-0", propagationPolicy="Background")
    run.wait_gone()
    plane.wait(lambda: not run.pods)
