"""Runs the trainer's ranks as real processes that join over gloo.

They are forked from a server that has imported torch already, so a rank starts in milliseconds.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from dreambooth_api.contract.termination import Termination
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointStore
from tests.ports import free_ports
from tests.trainer.checkpoint_saves import load

TIMEOUT_SECONDS = 300
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.trainer.ranks", "tests.trainer.preloaded"])


@dataclass(frozen=True)
class SignalAtCall:
    """A signal that a rank sends itself as it enters a function: a moment that can be repeated.

    function: where it is looked up, as `package.module:Class.name`.
    """

    function: str
    kind: signal.Signals = signal.SIGTERM
    rank: int = 0
    call: int = 1


@dataclass
class Ended:
    """How a run ended: each rank's exit code and log, and the termination message of all."""

    codes: list[int]
    logs: list[str]
    termination: Termination


class RunningRanks:
    """The ranks of one attempt under way."""

    def __init__(self, processes: list[Any], folder: Path, termination_log: Path) -> None:
        self._processes = processes
        self._folder = folder
        self._termination_log = termination_log

    def pid(self, rank: int = 0) -> int:
        """Process id of a rank."""
        return int(self._processes[rank].pid)

    def join(self, timeout: float = TIMEOUT_SECONDS) -> Ended:
        """Wait for the ends of all ranks; those that are not over by then are killed."""
        until = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(until - time.monotonic(), 0))
            if process.exitcode is None:
                process.kill()
                process.join()
        codes = [process.exitcode for process in self._processes]
        logs = [(self._folder / f"rank-{rank}.log").read_text() for rank in range(len(codes))]
        log = self._termination_log
        return Ended(codes, logs, Termination.decode(log.read_text() if log.exists() else ""))


def run_ranks(
    job: dict[str, Any],
    folder: Path,
    *,
    nodes: int = 1,
    per_node: int = 1,
    attempt: int = 0,
    stop_at_step: int | None = None,
    signal_at: SignalAtCall | None = None,
    prepare: Callable[[], None] | None = None,
    arguments: tuple[str, ...] = (),
    timeout: float = TIMEOUT_SECONDS,
) -> Ended:
    """Run all ranks of one attempt of the job to their ends.

    stop_at_step: rank 0 gets a SIGTERM in this step of the attempt. As ranks agree on it two steps
        later, the job must have more; a run that has trained to its end by then is an error.
    prepare: called in every rank before it begins; a function of a module.
    arguments: of the command, besides the job.
    """
    if stop_at_step is not None:
        signal_at = SignalAtCall(
            "dreambooth_trainer.training.module:DreamBooth.training_step", call=stop_at_step
        )
    started = start_ranks(
        job,
        folder,
        nodes=nodes,
        per_node=per_node,
        attempt=attempt,
        signal_at=signal_at,
        prepare=prepare,
        arguments=arguments,
    )
    ended = started.join(timeout)
    if stop_at_step is not None:
        # Else nothing would be left to train for the next attempt, and no test would show it.
        assert "; saved at step " in ended.termination.message, "\n".join(ended.logs)
    return ended


def start_ranks(
    job: dict[str, Any],
    folder: Path,
    *,
    nodes: int = 1,
    per_node: int = 1,
    attempt: int = 0,
    signal_at: SignalAtCall | None = None,
    prepare: Callable[[], None] | None = None,
    arguments: tuple[str, ...] = (),
) -> RunningRanks:
    """Start all ranks of one attempt of the job."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "job.yaml"
    config.write_text(yaml.safe_dump(job))
    termination_log = folder / f"termination-{attempt}.log"
    (port,), world = free_ports(1), nodes * per_node
    processes = []
    for rank in range(world):
        # The server of forks keeps the environment of the test that started it.
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("AWS_")},
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
        log.touch()
        own = signal_at if signal_at and signal_at.rank == rank else None
        variables = {name: str(value) for name, value in environment.items()}
        given = (config, variables, log, own, prepare, arguments)
        processes.append(_server.Process(target=_rank, args=given))
    for process in processes:
        process.start()
    return RunningRanks(processes, folder, termination_log)


def _rank(
    config: Path,
    environment: dict[str, str],
    log: Path,
    signal_at: SignalAtCall | None,
    prepare: Callable[[], None] | None,
    arguments: tuple[str, ...],
) -> None:
    # Nor may that environment's other settings of AWS, such as a session token, join these keys.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    from dreambooth_trainer.__main__ import main

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    if signal_at is not None:
        _arm(signal_at)
    sys.argv = ["dreambooth_trainer", "--config", str(config), *arguments]
    sys.exit(main())


def _arm(signal_at: SignalAtCall) -> None:
    module, _, path = signal_at.function.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function, calls = getattr(owner, name), count(1)

    def struck(*arguments: Any, **options: Any) -> Any:
        if next(calls) == signal_at.call:
            os.kill(os.getpid(), signal_at.kind)
        return function(*arguments, **options)

    setattr(owner, name, struck)


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
    return load(store, store.checkpoints()[0])
