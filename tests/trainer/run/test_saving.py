"""Whole jobs that save while they train: what is saved, and what a death leaves behind."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreambooth_storage import Storage, StorageSettings
from dreambooth_storage.upload.process import MODULE
from dreambooth_trainer.checkpoint import CheckpointStore
from tests.trainer.checkpoint_saves import load
from tests.trainer.gate import Gate
from tests.trainer.pods import TIMEOUT_SECONDS, Pod, Pods, launcher_with_stall_timeout
from tests.trainer.ranks import final_state, run_folder, run_ranks

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def job(random_model: Path, tmp_path: Path) -> Make:
    """A job on a random model; `training` and `spec` change it."""
    images = tmp_path / "images"
    images.mkdir()
    for level in range(3):
        Image.new("RGB", (64, 64), (80 * level, 90, 40)).save(images / f"{level}.png")

    def make(uid: str, training: dict[str, Any], **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "saving", "namespace": "default", "uid": uid},
            "spec": {
                "model": {"source": str(random_model)},
                "subjects": [
                    {"identifier": "sks", "classNoun": "mug", "images": f"file://{images}"}
                ],
                "output": f"file://{tmp_path}/output",
                "prior": {"enabled": False},
                "training": {
                    "method": "full", "globalBatch": 2, "resolution": 64, "precision": "fp32",
                    "learningRate": 1e-3, **training,
                },
                "samples": {"steps": 2, "count": 1},
                "runtime": {"gpusPerNode": 0},
                **spec,
            },
        }  # fmt: skip

    return make


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def store_of(job: dict[str, Any]) -> CheckpointStore:
    storage = Storage(StorageSettings(None, None, "auto"))
    return CheckpointStore(storage, f"file://{run_folder(job)}/checkpoints")


def test_two_ranks_resume_bit_for_bit_from_a_save_in_the_background(
    job: Make, tmp_path: Path
) -> None:
    training = {"steps": 8, "ema": {"enabled": True}}
    steady = job("steady", training, checkpoints={"every": 100})
    broken = job("broken", training, checkpoints={"every": 2, "keep": 9})
    for each, folder in ((steady, "steady"), (broken, "broken")):
        ended = run_ranks(each, tmp_path / folder, nodes=2)
        assert ended.codes == [0, 0], ended.logs
    *_, first = store_of(broken).checkpoints()
    assert first.step == 2
    assert len(first.manifest.shards) == 2
    for commit in (run_folder(broken) / "checkpoints" / "log").glob("*.json"):
        if int(commit.stem) > first.number:
            commit.unlink()
    assert store_of(broken).checkpoints()[0] == first
    again = run_ranks(broken, tmp_path / "broken", nodes=2, attempt=1)
    assert again.codes == [0, 0], again.logs
    expected, found = final_state(steady), final_state(broken)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_weights_of_a_loss_that_explodes_are_never_durable(job: Make, tmp_path: Path) -> None:
    exploding = {
        "steps": 200, "learningRate": 1.0, "maxGradNorm": 0,
        "optimizer": {"beta2": 0.0, "epsilon": 1e-30},
    }  # fmt: skip
    bad = job("bad", exploding, checkpoints={"every": 1, "keep": 100})
    assert run_ranks(bad, tmp_path / "bad").codes == [68]
    store = store_of(bad)
    for reference in store.checkpoints():
        tensors = load(store, reference)
        assert all(tensor.isfinite().all() for tensor in tensors.values()), reference.step


def progress(pod: Pod) -> dict[str, Any]:
    answer = pod.get("/progress")
    return json.loads(answer) if answer else {}


def uploaders_of(pid: int) -> list[int]:
    """Process ids of what uploads for the rank `pid`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text().split("\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if MODULE in command and int(parent) == pid:
            found.append(int(folder.name))
    return found


@pytest.fixture
def gate(s3_endpoint: str) -> Iterator[Gate]:
    with Gate(s3_endpoint) as gate:
        yield gate


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_rank_killed_while_it_waits_for_its_upload_has_lost_less_than_two_intervals(
    job: Make, gate: Gate, bucket: str, s3_endpoint: str, tmp_path: Path
) -> None:
    endless = job(
        "killed",
        {"steps": 1_000_000, "learningRate": 1e-6},
        output=f"s3://{bucket}/results",
        checkpoints={"every": 10},
        storage={"endpointURL": gate.url, "addressingStyle": "path"},
    )
    store = CheckpointStore(
        Storage(StorageSettings(s3_endpoint, None, "path")),
        f"s3://{bucket}/results/default/saving/killed/checkpoints",
    )
    with Pods(endless, tmp_path, nodes=1) as attempt:
        pod = attempt.start()
        until(lambda: progress(pod).get("lastCheckpoint"))
        gate.shut()
        assert gate.arrived.wait(TIMEOUT_SECONDS)
        # The step before the next save: training waits for the upload there.
        stopped = until(lambda: (step := progress(pod)["step"]) % 10 == 9 and step)
        [uploader] = uploaders_of(pod.rank())
        pod.kill_rank()
        assert pod.wait() == 137
        until(lambda: not Path(f"/proc/{uploader}").exists())
        gate.open()
    newest = store.checkpoints()[0]
    assert newest.step <= stopped < newest.step + 20
    assert load(store, newest)
    stopped_again = run_ranks(endless, tmp_path / "resumed", attempt=1, stop_at_step=1)
    assert stopped_again.codes == [143], stopped_again.logs
    checkpoint = stopped_again.termination.checkpoint
    last = store.checkpoints()[0]
    assert last.step > newest.step
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.uri) == (last.step, last.uri)


def test_a_store_that_breaks_off_is_reported_and_training_goes_on(
    job: Make, gate: Gate, bucket: str, tmp_path: Path
) -> None:
    endless = job(
        "refused",
        {"steps": 1_000_000, "learningRate": 1e-6},
        output=f"s3://{bucket}/results",
        checkpoints={"every": 10},
        storage={"endpointURL": gate.url, "addressingStyle": "path"},
    )
    launcher = launcher_with_stall_timeout(600, ["-m", "tests.trainer.hasty_storage"])
    with Pods(endless, tmp_path, nodes=1, launcher=launcher) as attempt:
        pod = attempt.start()
        until(lambda: progress(pod).get("lastCheckpoint"))
        gate.refuse()
        reported = until(lambda: (p := progress(pod)).get("failedSaves") and p)
        assert "s3://" in reported["saveProblem"]
        metrics = (pod.get("/metrics") or b"").decode()
        [line] = [
            line
            for line in metrics.splitlines()
            if line.startswith("dreambooth_trainer_checkpoint_failures_total")
        ]
        assert float(line.split()[-1]) >= 1
        gate.open()
        after = reported["lastCheckpoint"]["step"]
        until(lambda: progress(pod)["lastCheckpoint"]["step"] > after)
        assert progress(pod)["saveProblem"] is None
        pod.process.terminate()
        assert pod.wait() == 143
