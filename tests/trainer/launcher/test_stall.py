"""Real ranks that hang: the launcher says where, and ends the pod so that it is restarted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image

from dreambooth_api.contract.termination import Termination
from tests.ports import free_ports
from tests.trainer.pods import launcher_with_stall_timeout

STALL_SECONDS = 10
Start = Callable[[dict[str, Any]], subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    """A free port; the metrics of the second rank take the next one, the rendezvous the third."""
    return free_ports(3)[0]


@pytest.fixture
def job(random_model: Path, tmp_path: Path) -> dict[str, Any]:
    """A job that would train for hours."""
    images = tmp_path / "images"
    images.mkdir()
    for level in range(3):
        Image.new("RGB", (64, 64), (level, 0, 0)).save(images / f"{level}.png")
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "stall", "namespace": "default", "uid": "1"},
        "spec": {
            "model": {"source": str(random_model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": f"file://{images}"}],
            "output": f"file://{tmp_path}/output",
            "prior": {"enabled": False},
            "training": {
                "method": "full", "steps": 1_000_000, "globalBatch": 2, "resolution": 64,
                "learningRate": 1e-5, "precision": "fp32",
            },
            "checkpoints": {"every": 1_000_000},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0, "processesPerNode": 2},
        },
    }  # fmt: skip


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts the launcher with two ranks of the trainer."""
    started: list[subprocess.Popen[bytes]] = []

    def run(job: dict[str, Any]) -> subprocess.Popen[bytes]:
        config = tmp_path / "job.yaml"
        config.write_text(yaml.safe_dump(job))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PET_NPROC_PER_NODE": "2",
            "PET_MASTER_PORT": str(port + 2),
            "POD_IP": "127.0.0.1",
            "DREAMBOOTH_METRICS_PORT": str(port),
            "DREAMBOOTH_CACHE_DIR": str(tmp_path / "cache"),
            "DREAMBOOTH_TERMINATION_LOG": str(tmp_path / "termination.log"),
        }
        command = [sys.executable, *launcher_with_stall_timeout(STALL_SECONDS), "--config", config]
        with (tmp_path / "log").open("w") as log:
            started.append(
                subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
            )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its ranks, too
            process.wait()


def until_step(port: int, step: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/progress", timeout=5) as answer:
                if json.load(answer)["step"] >= step:
                    return
        except (URLError, ConnectionError):
            pass
        time.sleep(0.2)
    pytest.fail(f"step {step} was not reached")


def pid_of_rank(launcher: subprocess.Popen[bytes], rank: int) -> int:
    for children in Path(f"/proc/{launcher.pid}/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                return pid
    pytest.fail(f"there is no rank {rank}")


def stalled(launcher: subprocess.Popen[bytes], folder: Path) -> tuple[str, Termination]:
    """Wait until the launcher has found its ranks stalled; returns its log and termination."""
    launcher.wait(timeout=STALL_SECONDS + 90)
    log = (folder / "log").read_text()
    assert launcher.returncode == 70, log
    return log, Termination.decode((folder / "termination.log").read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="finds the rank in /proc")
def test_a_rank_that_freezes_in_training_ends_the_pod_as_stalled(
    job: dict[str, Any], start: Start, port: int, tmp_path: Path
) -> None:
    launcher = start(job)
    until_step(port, 3)
    os.kill(pid_of_rank(launcher, 1), signal.SIGSTOP)
    log, termination = stalled(launcher, tmp_path)
    assert termination.rank == 1
    start = f"stalled: no progress for {STALL_SECONDS} s in stage Training"
    assert termination.message.startswith(start)
    of_rank_1 = log.partition("rank 1: stalled: ")[2]
    assert "its state is T (stopped)" in of_rank_1
    of_rank_0 = log.partition("rank 0: stalled: ")[2].partition("rank 1: stalled: ")[0]
    assert "in train\n" in of_rank_0
    assert "in fit\n" in of_rank_0


def test_storage_that_never_answers_ends_the_pod_as_stalled(
    job: dict[str, Any], start: Start, tmp_path: Path, s3_env: dict[str, str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        job["spec"]["subjects"][0]["images"] = "s3://bucket/mug"
        job["spec"]["storage"] = {
            "endpointURL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "addressingStyle": "path",
        }
        log, termination = stalled(start(job), tmp_path)
    assert termination.rank == 0
    assert termination.message.startswith("stalled: no progress for ")
    assert "in stage Preparing" in termination.message
    of_rank_0 = log.partition("rank 0: stalled: ")[2].partition("rank 1: stalled: ")[0]
    assert "in check_subjects\n" in of_rank_0
    of_rank_1 = log.partition("rank 1: stalled: ")[2]
    assert "in gather\n" in of_rank_1
