"""Runs the pods of one attempt as processes, each with a loopback address of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

import yaml

from dreambooth_api.contract.termination import Termination
from tests.ports import free_ports

TIMEOUT_SECONDS = 300
LAUNCHER = ("-m", "dreambooth_trainer.launcher")
"""Python's arguments for a pod's first process."""


def launcher_with_stall_timeout(
    stall_seconds: int, rank: Sequence[str] = ("-m", "dreambooth_trainer")
) -> tuple[str, str]:
    """The launcher with a shorter stall timeout than a job file may have, in place of `LAUNCHER`.

    rank: Python's arguments for each rank.
    """
    return (
        "-c",
        f"""
import os, sys, time
from dreambooth_trainer.launcher import launch
stop = launch.StopSignal()
stop.install()
command = [sys.executable, *{tuple(rank)!r}, *sys.argv[1:]]
with launch.start_ranks(command, os.environ) as ranks:
    for rank in ranks:
        # The imports take longer on a busy machine; the job file's own minimum is 60 s.
        while rank.silent_seconds() >= 0 and rank.heartbeat.number < 2 and rank.end() is None:
            time.sleep(0.1)
    code = launch.supervise(ranks, launch.Limits({stall_seconds}, 60), stop)
sys.exit(code)
""",
    )


@dataclass
class Pod:
    """A pod under way; `address` is its own, as with a real one."""

    address: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    termination_log: Path

    def get(self, path: str) -> bytes | None:
        """What it answers over HTTP, None when it does not."""
        with (
            suppress(OSError),
            urlopen(f"http://{self.address}:{self.port}{path}", timeout=5) as answer,
        ):
            content: bytes = answer.read()
            return content
        return None

    def until_saved(self, step: int) -> None:
        """Wait until a checkpoint of `step` or a later one is durable."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            answer = self.get("/progress")
            saved = json.loads(answer)["lastCheckpoint"] if answer else None
            if saved and saved["step"] >= step:
                return
            time.sleep(0.02)
        raise AssertionError(f"step {step} was not saved:\n{self.log.read_text()}")

    def rank(self) -> int:
        """Process id of its only rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        [pid] = children.read_text().split()
        return int(pid)

    def kill_rank(self) -> None:
        """Kill -9 its only rank."""
        os.kill(self.rank(), signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(timeout=TIMEOUT_SECONDS)

    def termination(self) -> Termination:
        """Its termination message; empty where it wrote none."""
        log = self.termination_log
        return Termination.decode(log.read_text() if log.exists() else "")


class Pods:
    """The pods of an attempt; a context manager that leaves none behind."""

    def __init__(
        self,
        job: dict[str, Any],
        folder: Path,
        *,
        nodes: int,
        attempt: int = 0,
        launcher: Sequence[str] = LAUNCHER,
    ) -> None:
        self._launcher = launcher
        self._folder = folder / f"attempt-{attempt}"
        self._folder.mkdir(parents=True)
        self._config = self._folder / "job.yaml"
        self._config.write_text(yaml.safe_dump(job))
        self.rendezvous_port, metrics_port = free_ports(2)
        self._shared = {
            "OMP_NUM_THREADS": "1",
            "PET_NNODES": str(nodes),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(self.rendezvous_port),
            "DREAMBOOTH_ATTEMPT": str(attempt),
            "DREAMBOOTH_METRICS_PORT": str(metrics_port),
        }
        self.pods: list[Pod] = []

    def start(self) -> Pod:
        """Start the next pod."""
        index = len(self.pods)
        folder = self._folder / f"pod-{index}"
        folder.mkdir()
        address, log, termination = (
            f"127.0.0.{index + 1}",
            folder / "log",
            folder / "termination.log",
        )
        environment = {
            **os.environ,
            **self._shared,
            "PET_NODE_RANK": str(index),
            "POD_IP": address,
            "DREAMBOOTH_CACHE_DIR": str(folder / "cache"),
            "DREAMBOOTH_TERMINATION_LOG": str(termination),
        }
        command = [sys.executable, *self._launcher, "--config", self._config]
        with log.open("w") as stream:
            process = subprocess.Popen(command, env=environment, stderr=stream)
        port = int(self._shared["DREAMBOOTH_METRICS_PORT"])
        self.pods.append(Pod(address, port, process, log, termination))
        return self.pods[-1]

    def __enter__(self) -> Pods:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pod in self.pods:
            pod.process.terminate()
        for pod in self.pods:
            with suppress(subprocess.TimeoutExpired):
                pod.process.wait(timeout=30)
            pod.process.kill()
            pod.process.wait()
