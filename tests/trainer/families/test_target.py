"""Trained on one image from random weights, every family draws that image in plain diffusers.

A wrong sign, shift, packing or scale cannot pass: the image comes out of diffusers' own pipeline.
"""

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
from tests.trainer.families.conftest import load_plain
from tests.trainer.families.test_lora import training

SIDE, BATCH, STEPS = 64, 4, 400
PROMPT = "a photo of sks dog"


def train(job: MakeJob, family: Family, pixels: Tensor) -> None:
    """Train the denoiser on the image with the family's objective."""
    settings = training(job, family, method="full")
    objective = make_objective(family, settings, torch.device("cpu"))
    stream = np.random.Generator(np.random.Philox(key=7))
    noises = torch.Generator().manual_seed(7)
    moments = family.encode_images(pixels[None]).expand(BATCH, -1, -1, -1)
    shape = (BATCH, *family.latent_shape(SIDE))
    with torch.no_grad():
        caption = family.encode_tokens(family.tokenize([PROMPT]))
    conditioning = {name: part.expand(BATCH, *part.shape[1:]) for name, part in caption.items()}
    family.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.Adam(family.denoiser.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        # The mean of the posterior: what the image is, in the end, compared with.
        latents = family.sample_latents(moments, torch.zeros(shape))
        noise = torch.randn(shape, generator=noises)
        timesteps = torch.tensor(
            [objective.draw_timestep(stream) for _ in range(BATCH)], dtype=objective.timestep_dtype
        )
        noisy = objective.add_noise(latents, noise, timesteps)
        prediction = family.predict(noisy, timesteps, conditioning)
        loss = (prediction - objective.target(latents, noise, timesteps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def image() -> Tensor:
    """Large plain shapes [3, 64, 64] in -1..1."""
    pixels = torch.full((3, SIDE, SIDE), -0.5)
    pixels[0, 8:40, 8:40] = 0.9
    pixels[2, 32:, 32:] = 0.7
    return pixels


def final_latents(plain: Any, family: Family) -> Tensor:
    """What the pipeline's scheduler returns last."""
    results, step = [], plain.scheduler.step

    def record(*arguments: Any, **options: Any) -> Any:
        result = step(*arguments, **options)
        results.append(result[0])
        return result

    plain.scheduler.step = record
    plain(
        prompt=[PROMPT],
        guidance_scale=family.unguided_scale,
        generator=[torch.Generator().manual_seed(1)],
        num_inference_steps=25,
        height=SIDE,
        width=SIDE,
    )
    return results[-1]


@pytest.mark.slow
def test_plain_diffusers_draws_what_was_trained(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path
) -> None:
    pixels = image()
    moments = family.encode_images(pixels[None])
    target = family.sample_latents(moments, torch.zeros(1, *family.latent_shape(SIDE)))
    train(job, family, pixels)
    export_pipeline(family, tmp_path, ABOUT, dtype=torch.float32)
    plain = load_plain(tmp_path)
    found = family.unpack_latents(final_latents(plain, family), SIDE)
    error = (found - target).square().mean() / target.square().mean()
    assert error < 0.1
