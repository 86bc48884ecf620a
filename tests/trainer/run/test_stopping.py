"""Asked to stop at any moment, on any rank: all ranks end together, and nothing is lost."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.ranks import (
    TIMEOUT_SECONDS,
    SignalAtCall,
    final_state,
    history,
    run_folder,
    run_ranks,
    start_ranks,
)

pytestmark = pytest.mark.timeout(600)
LORA = {"method": "lora", "steps": 4, "globalBatch": 2, "lora": {"rank": 2}}
CHECKPOINTS = {"every": 2}

MOMENTS = {
    "loading the model": ("dreambooth_trainer.run.train:load_family", 1),
    "making class images": ("dreambooth_trainer.data.prior.class_images:generate_images", 1),
    "a denoising step": (
        "dreambooth_trainer.models.families.stable_diffusion:StableDiffusion.sampling_arguments",
        1,
    ),
    "looking at the base model": (
        "dreambooth_trainer.evaluation.image_generator:generate_images",
        1,
    ),
    "encoding the images": ("dreambooth_trainer.run.train:build_cache", 1),
    "the first step": ("dreambooth_trainer.training.module:DreamBooth.training_step", 1),
    "the middle of a save": ("dreambooth_trainer.training.module:DreamBooth.state", 1),
    "samples on the way": ("dreambooth_trainer.evaluation.image_generator:generate_images", 2),
    "the last step": ("dreambooth_trainer.training.module:DreamBooth.training_step", 4),
    "looking at the result": ("dreambooth_trainer.evaluation.samples:SampleWriter.write", 3),
    "the export": ("dreambooth_trainer.run.finish:export_lora", 1),
}
SLOW = {
    *("making class images", "looking at the base model", "encoding the images"),
    *("samples on the way", "the last step", "looking at the result"),
}
Job = Callable[..., dict[str, Any]]


def small(job: Job, uid: str, cache: Path) -> dict[str, Any]:
    """A job that goes through every stage. Both ranks make class images and samples."""
    return job(
        uid,
        training=LORA,
        checkpoints=CHECKPOINTS,
        prior={"count": 9, "cache": f"file://{cache}"},
        samples={"steps": 1, "count": 9, "every": 3},
    )


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run left, filled by the first test that needs it."""
    return {}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in MOMENTS],
)
def test_whenever_one_rank_is_asked_to_stop_all_end_and_the_job_goes_on(
    job: Job, steady: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    if not steady:
        whole = small(job, "steady", tmp_path / "steady-cache")
        assert run_ranks(whole, tmp_path / "steady", nodes=2).codes == [0, 0]
        steady.update(final_state(whole))
    broken = small(job, "broken", tmp_path / "cache")
    function, call = MOMENTS[moment]
    signal_at = SignalAtCall(
        function, signal.SIGTERM, rank=list(MOMENTS).index(moment) % 2, call=call
    )
    if moment == "the export":
        signal_at = SignalAtCall(function, signal.SIGTERM, rank=0)
    stopped = run_ranks(broken, tmp_path / "first", nodes=2, signal_at=signal_at)
    # Who is asked once there is nothing left to do but to write the result does so.
    expected = 0 if moment == "the export" else 143
    assert stopped.codes == [expected, expected], "\n".join(stopped.logs)
    if expected:
        assert not (run_folder(broken) / "export").exists()
        resumed = run_ranks(broken, tmp_path / "second", nodes=2, attempt=1)
        assert resumed.codes == [0, 0], "\n".join(resumed.logs)
    assert (run_folder(broken) / "export" / "pytorch_lora_weights.safetensors").is_file()
    assert (run_folder(broken) / "samples" / "before-after.png").is_file()
    report = (run_folder(broken) / "report.html").read_text()
    assert "Succeeded." in report
    assert ("asked to stop" in report) == bool(expected)
    found = final_state(broken)
    assert found.keys() == steady.keys()
    assert [name for name in found if not torch.equal(found[name], steady[name])] == []


def test_asking_again_changes_nothing(job: Job, tmp_path: Path) -> None:
    endless = job(
        "endless",
        training={**LORA, "steps": 100_000},
        checkpoints={"every": 3},
        prior={"enabled": False},
    )
    ranks = start_ranks(endless, tmp_path / "endless")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (run_folder(endless) / "history.jsonl").exists():  # written with each checkpoint
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        for _ in range(20):
            os.kill(ranks.pid(), signal.SIGTERM)
            time.sleep(0.01)
    ended = ranks.join()
    assert ended.codes == [143], ended.logs
    assert ended.termination.checkpoint is not None
    assert history(endless)[-1]["step"] == ended.termination.checkpoint.step
    assert final_state(endless)
