"""Trained on one image from random weights, every family draws that image in plain diffusers.

A wrong sign, shift, packing or scale cannot pass: the image comes out of diffusers' own pipeline,
which loads the export.
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.models import Family
from dreambooth_trainer.objectives.make import make_objective
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import SIDE, call_plain, load_plain
from tests.trainer.families.test_lora import training

BATCH, STEPS, TOKENS = 4, 300, 32
BATCHES = {"StableDiffusionXLPipeline": 8}
"""By pipeline, where more is needed: noise has to be predicted better than a velocity for the same
image, as it is divided by little signal."""
PROMPT = "a photo of sks dog"

FLUX2 = {
    "attention_head_dim": 80, "axes_dims_rope": [20] * 4, "num_layers": 1, "num_single_layers": 1,
}  # fmt: skip
FLUX = {
    "attention_head_dim": 40, "axes_dims_rope": [8, 16, 16], "num_layers": 1,
    "num_single_layers": 1,
}  # fmt: skip
WIDE: dict[str, dict[str, Any]] = {
    "ChromaPipeline": FLUX, "Flux2KleinPipeline": FLUX2, "Flux2Pipeline": FLUX2,
    "FluxPipeline": FLUX,
    "Krea2Pipeline": {"attention_head_dim": 40, "axes_dims_rope": [8, 16, 16]},
    "QwenImagePipeline": {"attention_head_dim": 40, "axes_dims_rope": [8, 16, 16], "num_layers": 2},
    "SanaPipeline": {},
    "StableDiffusion3Pipeline": {"attention_head_dim": 40, "caption_projection_dim": 80},
    "StableDiffusionXLPipeline": {
        "attention_head_dim": [4, 4], "block_out_channels": [32, 32], "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 1],
    },
    "ZImagePipeline": {"axes_dims": [8, 16, 16], "dim": 80, "n_refiner_layers": 1},
}  # fmt: skip
"""Settings of the denoiser by pipeline: wider than the numbers of a token, which must pass through
it. Otherwise no training could make it predict the noise. Empty where the tiny model is."""
MORE_STEPS = {"ZImagePipeline": 600}
"""Steps of those that learn more slowly where in the image a token is."""


def replace_denoiser(family: Family) -> None:
    """Give the family a wider denoiser, with the library's own random weights."""
    torch.manual_seed(0)
    old = family.denoiser
    settings = {**old.config, **WIDE[family.pipeline_class.__name__]}
    family.denoiser = type(old).from_config(settings)
    setattr(family.pipeline(), family.denoiser_part, family.denoiser)


def train(job: MakeJob, family: Family, pixels: Tensor) -> None:
    """Train the denoiser on the image with the family's objective."""
    batch = BATCHES.get(family.pipeline_class.__name__, BATCH)
    settings = training(job, family, method="full")
    steps = MORE_STEPS.get(family.pipeline_class.__name__, STEPS)
    objective = make_objective(family, settings, torch.device("cpu"))
    stream = np.random.Generator(np.random.Philox(key=7))
    noises = torch.Generator().manual_seed(7)
    caption = family.encode_prompts([PROMPT])
    conditioning = {name: part.expand(batch, *part.shape[1:]) for name, part in caption.items()}
    # The mean of the posterior: what the image is, in the end, compared with.
    latents = family.sample_latents(
        family.encode_images(pixels[None]), torch.zeros(1, *family.latent_shape(SIDE))
    ).expand(batch, -1, -1, -1)
    family.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.Adam(family.denoiser.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        noise = torch.randn(latents.shape, generator=noises)
        timesteps = torch.tensor(
            [objective.draw_timestep(stream) for _ in range(batch)], dtype=objective.timestep_dtype
        )
        noisy = objective.add_noise(latents, noise, timesteps)
        prediction = family.predict(noisy, timesteps, conditioning)
        loss = (prediction - objective.target(latents, noise, timesteps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(family.denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def image() -> Tensor:
    """Large plain shapes [3, 64, 64] in -1..1."""
    pixels = torch.full((3, SIDE, SIDE), -0.5)
    pixels[0, 8:40, 8:40] = 0.9
    pixels[2, 32:, 32:] = 0.7
    return pixels


def final_latents(plain: Any, family: Family) -> Tensor:
    """What the pipeline's scheduler returns last, [1, C, h, w]."""
    results, step = [], plain.scheduler.step

    def record(*arguments: Any, **options: Any) -> Any:
        result = step(*arguments, **options)
        results.append(result[0])
        return result

    plain.scheduler.step = record
    has_length = "max_sequence_length" in inspect.signature(plain.__call__).parameters
    call_plain(
        plain,
        [PROMPT],
        guidance_scale=family.unguided_scale,
        generator=[torch.Generator().manual_seed(1)],
        num_inference_steps=25,
        **({"max_sequence_length": TOKENS} if has_length else {}),
    )
    return family.unpack_latents(results[-1].float(), SIDE)


def test_plain_diffusers_draws_what_was_trained(
    job: MakeJob, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_denoiser(family)
    if family.max_tokens > 100:  # long captions would take most of the time
        monkeypatch.setattr(type(family), "max_tokens", TOKENS)
    pixels = image()
    moments = family.encode_images(pixels[None])
    target = family.sample_latents(moments, torch.zeros(1, *family.latent_shape(SIDE)))
    train(job, family, pixels)
    export_pipeline(family, tmp_path, ABOUT, dtype=torch.float32)
    found = final_latents(load_plain(tmp_path), family)
    error = (found - target).square().mean() / target.square().mean()
    likeness = torch.corrcoef(torch.stack([found.flatten(), target.flatten()]))[0, 1]
    assert error < 0.5
    assert likeness > 0.8
