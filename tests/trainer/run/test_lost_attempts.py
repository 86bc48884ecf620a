"""An attempt that was considered lost and comes back: it cannot harm its successor."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import SignalAtCall, run_folder, run_ranks, start_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
Job = Callable[..., dict[str, Any]]

MOMENTS = {
    "loading the model": ("dreambooth_trainer.run.train:load_family", 1),
    "a step": ("dreambooth_trainer.training.module:DreamBooth.training_step", 2),
    "about to save": ("dreambooth_trainer.training.module:DreamBooth.state", 2),
    "about to delete": ("dreambooth_storage:Storage.delete", 3),
    "samples on the way": ("dreambooth_trainer.evaluation.image_generator:generate_images", 2),
    "looking at the result": ("dreambooth_trainer.evaluation.image_generator:generate_images", 3),
    "the export": ("dreambooth_trainer.run.finish:export_lora", 1),
}
SLOW = {"samples on the way", "looking at the result"}


def small(job: Job, steps: int) -> dict[str, Any]:
    """A job that goes through every stage, and keeps one checkpoint."""
    training = {"method": "lora", "steps": steps, "globalBatch": 2, "lora": {"rank": 2}}
    return job(
        "run",
        training=training,
        checkpoints={"every": 1, "keep": 1},
        samples={"every": 2, "steps": 2, "count": 1},
        prior={"enabled": False},
    )


def until_frozen(pid: int) -> None:
    deadline = time.monotonic() + 120
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "it was not frozen"
        time.sleep(0.05)


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "moment",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in MOMENTS],
)
def test_it_changes_nothing_and_ends_with_its_own_code(
    job: Job, tmp_path: Path, moment: str
) -> None:
    function, call = MOMENTS[moment]
    nodes = 2 if moment == "a step" else 1
    signal_at = SignalAtCall(function, signal.SIGSTOP, rank=nodes - 1, call=call)
    lost = start_ranks(small(job, 4), tmp_path / "lost", nodes=nodes, signal_at=signal_at)
    until_frozen(lost.pid(nodes - 1))

    # Its successor trains on for longer, so that none of its results are those of the lost one.
    successor = small(job, 6)
    ended = run_ranks(successor, tmp_path / "successor", attempt=1)
    assert ended.codes == [0], "\n".join(ended.logs)
    folder = run_folder(successor)
    before = contents(folder)

    os.kill(lost.pid(nodes - 1), signal.SIGCONT)
    late = lost.join()
    assert late.codes == [69] * nodes, "\n".join(late.logs)
    assert "a newer claim has taken" in late.termination.message
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    # Shards that it had begun lie in folders of its own, and are no checkpoint.
    assert all("-claim-0000/" in name for name in after.keys() - before.keys())
