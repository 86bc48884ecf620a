"""Whole runs of the trainer on every family: the training contract does not depend on the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_api.contract.exit_codes import ExitCode
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import build
from tests.trainer.ranks import final_state, history, run_folder, run_ranks
from tests.trainer.run.test_generate import pixels
from tests.trainer.run.test_generate import run as generate_images

ALL_WEIGHTS = ("sdxl", "flux2_klein", "sana")
"""Families of either objective whose runs of `full` take seconds."""
PREPARED = {"prior": {"count": 2, "steps": 1}, "samples": {"steps": 2, "count": 1}}


def lora_job(job: MakeJob, folder: Path, uid: str) -> dict[str, Any]:
    """Four steps of LoRA, with class images and samples of the family's own defaults."""
    training = {"method": "lora", "steps": 4, "globalBatch": 2, "lora": {"rank": 2}}
    return job(uid, model={"source": str(folder)}, training=training, **PREPARED)


def finish(config: dict[str, Any], logs: Path, **how: Any) -> None:
    """Run all ranks to the end of the job."""
    ended = run_ranks(config, logs, **how)
    assert set(ended.codes) == {ExitCode.DONE}, "\n".join(ended.logs)


def test_a_job_trains_samples_and_exports(job: MakeJob, folder: Path, tmp_path: Path) -> None:
    config = lora_job(job, folder, "whole")
    finish(config, tmp_path / "logs")
    run = run_folder(config)
    assert (run / "export" / "pytorch_lora_weights.safetensors").is_file()
    assert list(run.glob("samples/step-*4/*.png"))
    losses = [line["loss"] for line in history(config)]
    assert len(losses) == 4
    assert all(0 < loss < 1e3 for loss in losses)
    # The export makes the same images as the model that was trained.
    generate_images(config, tmp_path / "images", prompts=["a photo of sks mug"], count=1, seed=42)
    (image,) = (tmp_path / "images").glob("a-photo-of-sks-mug-42.png")
    np.testing.assert_array_equal(pixels(image), pixels(run / "samples/step-00000004/0-0.png"))


def test_ranks_and_interruptions_change_nothing(job: MakeJob, folder: Path, tmp_path: Path) -> None:
    alone, together, stopped = (
        lora_job(job, folder, uid) for uid in ("alone", "together", "stopped")
    )
    finish(alone, tmp_path / "alone")
    finish(together, tmp_path / "together", per_node=2)
    torch.testing.assert_close(
        torch.tensor([line["loss"] for line in history(together)]),
        torch.tensor([line["loss"] for line in history(alone)]),
        rtol=1e-4,
        atol=1e-4,
    )
    ended = run_ranks(stopped, tmp_path / "stopped", stop_at_step=1)
    assert ended.codes == [ExitCode.STOPPED]
    finish(stopped, tmp_path / "resumed", attempt=1)
    expected, state = final_state(alone), final_state(stopped)
    assert expected.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ALL_WEIGHTS)
def test_an_interrupted_run_of_all_weights_ends_as_if_it_had_not_been(
    job: MakeJob, tmp_path: Path, name: str
) -> None:
    training = {"method": "full", "steps": 4, "globalBatch": 2, "learningRate": 1e-5}
    whole, stopped = (
        job(
            uid,
            model={"source": str(build(name))},
            training=training,
            prior={"enabled": False},
            samples={"steps": 1, "count": 1},
        )
        for uid in ("whole", "stopped")
    )
    finish(whole, tmp_path / "whole", per_node=2)
    ended = run_ranks(stopped, tmp_path / "stopped", stop_at_step=1, per_node=2)
    assert set(ended.codes) == {ExitCode.STOPPED}
    finish(stopped, tmp_path / "resumed", attempt=1, per_node=2)
    expected, state = final_state(whole), final_state(stopped)
    assert expected.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.items())
