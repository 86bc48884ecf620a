"""Whole runs whose frozen weights have few bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image

from dreambooth_api.contract.exit_codes import ExitCode
from tests.trainer.conftest import MakeJob
from tests.trainer.ranks import final_state, history, run_folder, run_ranks

TINY_FLOW = Path(__file__).parents[3] / "examples" / "tiny-flow" / "model"
PROMPT = "a photo of sks mug"


def quantized_job(job: MakeJob, uid: str, source: Path, **quantization: str) -> dict[str, Any]:
    return job(
        uid,
        model={"source": str(source), "quantization": quantization},
        training={
            "method": "lora",
            "steps": 4,
            "globalBatch": 2,
            "precision": "bf16",
            "learningRate": 5e-3,
        },
        prior={"count": 2},
        samples={"prompts": [PROMPT], "count": 1, "steps": 8, "guidanceScale": 3.0, "seed": 3},
    )


def finish(config: dict[str, Any], logs: Path, **how: Any) -> None:
    ended = run_ranks(config, logs, **how)
    assert set(ended.codes) == {ExitCode.DONE}, "\n".join(ended.logs)


@pytest.mark.parametrize(
    ("quantization", "difference"),
    [
        pytest.param({"denoiser": "nf4", "textEncoders": "int8"}, 12, id="nf4"),
        pytest.param({"denoiser": "int8"}, 3, id="int8", marks=pytest.mark.slow),
    ],
)
def test_the_export_draws_nearly_the_same_on_the_published_model(
    job: MakeJob, tmp_path: Path, quantization: dict[str, str], difference: float
) -> None:
    config = quantized_job(job, "run", TINY_FLOW, **quantization)
    finish(config, tmp_path / "logs")
    [sample] = run_folder(config).glob("samples/step-*4/0-0.png")
    ours = np.asarray(Image.open(sample)).astype(int)
    plain = ZImagePipeline.from_pretrained(TINY_FLOW)
    plain.set_progress_bar_config(disable=True)
    images = {}
    for name in ("without", "with"):
        if name == "with":
            plain.load_lora_weights(run_folder(config) / "export")
        generator = torch.Generator().manual_seed(3)
        images[name] = np.asarray(
            plain(
                PROMPT, height=64, width=64, num_inference_steps=8, guidance_scale=3.0,
                generator=generator,
            ).images[0]
        ).astype(int)  # fmt: skip
    assert np.abs(images["with"] - ours).mean() < difference
    assert np.abs(images["with"] - images["without"]).mean() > difference


def test_ranks_and_interruptions_change_nothing(
    job: MakeJob, random_model: Path, tmp_path: Path
) -> None:
    alone, together, stopped = (
        quantized_job(job, uid, random_model, denoiser="nf4")
        for uid in ("alone", "together", "stopped")
    )
    finish(alone, tmp_path / "alone")
    finish(together, tmp_path / "together", per_node=2)
    expected, found = (
        torch.tensor([line["loss"] for line in history(each)]) for each in (alone, together)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    ended = run_ranks(stopped, tmp_path / "stopped", stop_at_step=1)
    assert ended.codes == [ExitCode.STOPPED]
    finish(stopped, tmp_path / "resumed", attempt=1)
    expected_state, state = final_state(alone), final_state(stopped)
    assert expected_state.keys() == state.keys()
    assert all(state[name].equal(tensor) for name, tensor in expected_state.items())
