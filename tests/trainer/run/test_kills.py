"""Killed at any moment: what was durable stays so, and the end is that of a run without trouble."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.checkpoint import CheckpointRef, CheckpointStore
from tests.trainer.checkpoint_saves import load
from tests.trainer.ranks import final_state, run_folder, run_ranks, start_ranks

Job = Callable[..., dict[str, Any]]
STEPS = 20


def small(job: Job, uid: str) -> dict[str, Any]:
    """A LoRA that is saved at every second step."""
    training = {"method": "lora", "steps": STEPS, "globalBatch": 1, "ema": {"enabled": True}}
    return job(uid, training=training, checkpoints={"every": 2}, prior={"enabled": False})


class Run:
    """A job that is started and killed until it is through."""

    def __init__(self, job: dict[str, Any], folder: Path) -> None:
        self.job = job
        self._folder = folder
        self._attempt = 0
        self._durable = 0

    def start(self, dice: random.Random, seconds: float) -> bool:
        """Start the next attempt, and kill it after at most `seconds`; whether it was done before.

        Every other one is asked to stop first, with hardly any time to do so.
        """
        folder = self._folder / f"{self._attempt}"
        ranks = start_ranks(self.job, folder, attempt=self._attempt)
        pid, moment = ranks.pid(), dice.uniform(0, seconds)
        time.sleep(moment)
        with suppress(ProcessLookupError):
            if self._attempt % 2:
                os.kill(pid, signal.SIGTERM)
                time.sleep(dice.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
        ended = ranks.join()
        assert ended.codes[0] in (-signal.SIGKILL, 143, 0), "\n".join(ended.logs)
        self._attempt += 1
        self._check_newest()
        return ended.codes == [0]

    def finish(self) -> None:
        """Run the next attempt to its end."""
        ended = run_ranks(self.job, self._folder / f"{self._attempt}", attempt=self._attempt)
        assert ended.codes == [0], "\n".join(ended.logs)

    def _check_newest(self) -> None:
        """The newest checkpoint is whole and no older than before; attempts resume from it."""
        newest = self._newest()
        step = newest.step if newest else 0
        assert step >= self._durable
        record = run_folder(self.job) / "run.json"
        if record.exists():
            last = json.loads(record.read_text())["attempts"][-1]
            if last["attempt"] == self._attempt - 1:
                assert (last["resumedFromStep"] or 0) == self._durable
        self._durable = step

    def _newest(self) -> CheckpointRef | None:
        uri = f"file://{run_folder(self.job)}/checkpoints"
        store = CheckpointStore(Storage(StorageSettings(None, None, "auto")), uri)
        newest = next(iter(store.checkpoints()), None)
        if newest is not None:
            load(store, newest)  # raises when it is damaged
        return newest


@pytest.mark.parametrize(
    "kills", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_killed_at_random_moments_a_job_always_comes_to_the_same_end(
    job: Job, tmp_path: Path, kills: int
) -> None:
    steady = small(job, "steady")
    run_ranks(steady, tmp_path / "warm-up")  # the first one imports
    began = time.monotonic()
    whole = small(job, "whole")
    assert run_ranks(whole, tmp_path / "whole").codes == [0]
    seconds = time.monotonic() - began
    expected = final_state(whole)

    dice, number = random.Random(20), 0
    runs = [Run(small(job, "killed-0"), tmp_path / "killed-0")]
    for _ in range(kills):
        if runs[-1].start(dice, seconds):
            number += 1
            runs.append(Run(small(job, f"killed-{number}"), tmp_path / f"killed-{number}"))
    runs[-1].finish()
    for run in runs:
        found = final_state(run.job)
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
        assert (run_folder(run.job) / "export" / "pytorch_lora_weights.safetensors").is_file()
