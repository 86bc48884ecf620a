"""An attempt of two pods, as the operator sees it: readiness, progress, death and restart."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreambooth_api.contract.termination import Termination
from tests.trainer.pods import TIMEOUT_SECONDS, Pods, launcher_with_stall_timeout
from tests.trainer.ranks import run_folder, run_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2, and /proc")
STEPS = 40


@pytest.fixture
def make(job: Callable[..., dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """Make short jobs of two pods; those with different uids share nothing."""
    training = {"method": "lora", "steps": STEPS, "globalBatch": 2, "seed": 3}
    return partial(
        job,
        prior={"enabled": False},
        training=training,
        checkpoints={"every": 5},
        runtime={"nodes": 2},
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_pods_are_ready_when_all_have_joined_and_until_they_end(
    make: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    with Pods(make("ready"), tmp_path, nodes=2) as attempt:
        first = attempt.start()
        until(lambda: listening(attempt.rendezvous_port))
        time.sleep(1)
        assert first.get("/healthz") is None
        second = attempt.start()
        until(lambda: first.get("/healthz") and second.get("/healthz"))
        assert second.get("/progress") is None
        assert second.get("/metrics")
        seen = [first_seen := json.loads(first.get("/progress") or b"")]
        while (answer := first.get("/progress")) is not None:
            seen.append(json.loads(answer))
            time.sleep(0.02)
        assert [pod.wait() for pod in attempt.pods] == [0, 0]
        ended = first.termination()
        assert (ended.rank, ended.message) == (0, "done")
        assert ended.checkpoint is not None
        assert ended.checkpoint.step == STEPS
        assert second.termination() == Termination()
    assert first_seen["output"] == f"file://{run_folder(make('ready'))}"
    assert "Training" in {each["stage"] for each in seen}
    assert seen[-1]["stage"] in ("Evaluating", "Exporting")
    assert seen[-1]["step"] == STEPS
    assert seen[-1]["samples"][-1].endswith(f"step-{STEPS:08d}/grid.png")


def listening(port: int) -> bool:
    """Whether a process listens on this machine's port, as rank 0 does at the rendezvous."""
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    return any(f":{port:04X} " in line and " 0A " in line for line in table.splitlines())


def test_a_pod_that_waits_for_another_stops_at_once(
    make: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    with Pods(make("alone"), tmp_path, nodes=2) as attempt:
        first = attempt.start()
        until(lambda: listening(attempt.rendezvous_port))
        time.sleep(1)
        first.process.terminate()
        began = time.monotonic()
        assert first.wait() == 143
        assert time.monotonic() - began < 30
        assert first.termination() == Termination(rank=0, message="killed by SIGTERM")


def weights(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The export's tensors; the order of the file's metadata differs from run to run."""
    return load_file(run_folder(job) / "export" / "pytorch_lora_weights.safetensors")


def test_a_rank_that_was_killed_costs_nothing_but_time(
    make: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    steady, broken = make("steady"), make("broken")
    assert run_ranks(steady, tmp_path / "steady", nodes=2).codes == [0, 0]

    with Pods(broken, tmp_path / "broken", nodes=2) as attempt:
        first, second = attempt.start(), attempt.start()
        first.until_saved(5)
        second.kill_rank()
        assert second.wait() == 137
        killed = "killed by SIGKILL (out of memory, or killed by hand)"
        assert second.termination() == Termination(rank=1, message=killed)
        assert first.wait() == 1
        assert first.termination().rank == 0
        assert first.termination().message.startswith("RuntimeError: ")
    assert not (run_folder(broken) / "export").exists()
    assert run_ranks(broken, tmp_path / "resumed", nodes=2, attempt=1).codes == [0, 0]
    record = json.loads((run_folder(broken) / "run.json").read_text())
    assert record["attempts"][0]["resumedFromStep"] is None
    assert record["attempts"][1]["resumedFromStep"] >= 5
    found, expected = weights(broken), weights(steady)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


STALL_SECONDS = 20
OVERSLEEPING = """
import os, runpy, time
from dreambooth_trainer.training.module import DreamBooth
train = DreamBooth.training_step
def oversleep():
    time.sleep(3600)
def step(self, *arguments):
    if os.environ["RANK"] == "1" and self.steps_done == 3:
        oversleep()
    return train(self, *arguments)
DreamBooth.training_step = step
runpy.run_module("dreambooth_trainer", run_name="__main__")
"""


@pytest.mark.slow  # launcher/test_stall.py has the same in one pod
def test_a_rank_that_hangs_says_where_in_the_log_of_its_own_pod(
    make: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    launcher = launcher_with_stall_timeout(STALL_SECONDS, ["-c", OVERSLEEPING])
    with Pods(make("hanging"), tmp_path, nodes=2, launcher=launcher) as attempt:
        waiting, hanging = attempt.start(), attempt.start()
        assert hanging.wait() == 70
        assert waiting.wait() in (70, 1)  # it waits in a collective, or has lost its peer by then
    stalled = f"stalled: no progress for {STALL_SECONDS} s in stage Training, step 3"
    assert hanging.termination().rank == 1
    assert hanging.termination().message.startswith(stalled)
    assert "in oversleep\n" in hanging.log.read_text()
    assert "in oversleep\n" not in waiting.log.read_text()
    assert waiting.termination().rank == 0
