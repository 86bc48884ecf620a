"""Runs the trainer's ranks as real processes that join over gloo.

They are forked from a server that has imported torch already, so a rank starts in milliseconds.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.storage import Storage, StorageSettings

PATIENCE = 120
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["dreambooth_trainer.train", "tests.trainer.ranks"])


@dataclass
class Ended:
    """How a run ended: each rank's exit code, what each said, and the termination log."""

    codes: list[int]
    logs: list[str]
    last_words: str


def run_ranks(
    job: dict[str, Any],
    folder: Path,
    *,
    nodes: int = 1,
    per_node: int = 1,
    attempt: int = 0,
    stop_at_step: int | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Run all ranks of one attempt of the job to their ends."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "job.yaml"
    config.write_text(yaml.safe_dump(job))
    termination_log = folder / f"termination-{attempt}.log"
    port, world = _free_port(), nodes * per_node
    processes = []
    for rank in range(world):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank % per_node,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": per_node,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "POD_IP": "127.0.0.1",
            "DREAMBOOTH_ATTEMPT": attempt,
            "DREAMBOOTH_METRICS_PORT": -(rank % per_node),  # any free port: 0 for every rank
            "DREAMBOOTH_CACHE_DIR": folder / f"cache-{rank // per_node}",
            "DREAMBOOTH_TERMINATION_LOG": termination_log,
        }
        log = folder / f"rank-{rank}.log"
        arguments = (config, {k: str(v) for k, v in environment.items()}, log, stop_at_step)
        processes.append(_server.Process(target=_rank, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join(patience)
        if process.exitcode is None:
            process.kill()
            process.join()
    logs = [(folder / f"rank-{rank}.log").read_text() for rank in range(world)]
    words = termination_log.read_text() if termination_log.exists() else ""
    codes = [process.exitcode if process.exitcode is not None else -1 for process in processes]
    return Ended(codes, logs, words)


def _rank(config: Path, environment: dict[str, str], log: Path, stop_at_step: int | None) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from dreambooth_trainer.__main__ import main

    torch.set_num_threads(1)
    if stop_at_step is not None and environment["RANK"] == "0":
        _ask_to_stop_at(stop_at_step)
    sys.argv = ["dreambooth_trainer", "--config", str(config)]
    sys.exit(main())


def _ask_to_stop_at(step: int) -> None:
    """Send this very process a real SIGTERM when it reports `step`."""
    from dreambooth_trainer.observe import Observers

    report_step = Observers.step

    def report(self: Observers, report: Any) -> None:
        report_step(self, report)
        if report.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    Observers.step = report  # type: ignore[method-assign]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def history(job: dict[str, Any]) -> list[dict[str, float]]:
    """Every step's report of a finished run on file://."""
    return [
        json.loads(line) for line in (run_folder(job) / "history.jsonl").read_text().splitlines()
    ]


def run_folder(job: dict[str, Any]) -> Path:
    """Folder of the run's results."""
    meta = job["metadata"]
    root = Path(job["spec"]["output"].removeprefix("file://"))
    return root / meta["namespace"] / meta["name"] / meta["uid"]


def final_state(job: dict[str, Any]) -> dict[str, Any]:
    """Tensors of the newest checkpoint."""
    storage = Storage(StorageSettings(None, None, "auto"))
    store = CheckpointStore(storage, f"file://{run_folder(job)}/checkpoints")
    newest = store.latest()
    assert newest is not None
    return store.load(newest)
