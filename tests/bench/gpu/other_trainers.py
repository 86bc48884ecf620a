"""The step of two other DreamBooth trainers, written by hand after what they do, on SD 1.5.

Assumptions, batch 1 subject and 1 class image at 512 px, without 8-bit optimizers:

- The original repository (Dreambooth-Stable-Diffusion): fp32 in PyTorch's default precision of
  matrix products, UNet and text encoder trained, VAE and text encoder run in each step, one forward
  pass for the subject and one for the class, gradient checkpointing, AdamW that is not fused.
  Its loader's processes decode images meanwhile, so decoding is left out.
- diffusers' train_dreambooth.py, as its page runs it with fp16: UNet in fp32 under autocast with a
  gradient scaler, VAE and text encoder in fp16 in each step, one forward pass for both, gradients
  clipped, AdamW that is not fused, images decoded in the loop, the loss read back after each step.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import AdamW

from tests.bench.gpu.figures import Figure
from tests.bench.gpu.run import CLASS, SUBJECT, TrainerRun
from tests.bench.gpu.training import measured, step_seconds

LEARNING_RATE = 1e-6


def other_trainers(folder: Path, tiny: bool) -> Iterator[Figure]:
    """Their steps against ours, with full fine-tuning in bf16 on the same batch."""
    run = TrainerRun(
        "sd15", folder, tiny=tiny, resolution=512, prior=True, method="full", globalBatch=1
    )
    run.encode()
    ours = step_seconds(measured(run, run.module(), 4 if tiny else 30))
    yield Figure("our step", ours, "s")
    times = 2 if tiny else 10
    theirs = run.device.seconds(_diffusers(run, folder), times=times, warm_up=2)
    yield Figure("diffusers' step / ours", theirs / ours, at_least=2)
    original = run.device.seconds(_original(run), times=times, warm_up=2)
    yield Figure("original repository's step / ours", original / ours, at_least=6)


def _original(run: TrainerRun) -> Callable[[], None]:
    pipeline, device = run.family.pipeline(), run.device.torch
    unet, text = pipeline.unet, pipeline.text_encoder
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet.enable_gradient_checkpointing()
    text.requires_grad_(True)
    optimizer = AdamW([*unet.parameters(), *text.parameters()], lr=LEARNING_RATE)
    size = run.job.spec.training.resolution
    pixels = torch.zeros(1, 3, size, size, device=device)

    def loss(caption: str) -> Tensor:
        with torch.no_grad():
            latents = _latents(pipeline.vae, pixels)
        states = text(_tokens(pipeline, [caption], device))[0]
        return _denoising_loss(unet, schedule, latents, states).mean()

    def step() -> None:
        (loss(SUBJECT) + loss(CLASS)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _diffusers(run: TrainerRun, folder: Path) -> Callable[[], None]:
    pipeline, device = run.family.pipeline(), run.device.torch
    unet, size = pipeline.unet, run.job.spec.training.resolution
    half = torch.float16 if run.device.is_gpu else torch.bfloat16  # CPUs are slow in fp16
    vae = copy.deepcopy(pipeline.vae).to(half)
    text = copy.deepcopy(pipeline.text_encoder).to(half)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimizer = AdamW(unet.parameters(), lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    photo = folder / "photo.jpg"
    Image.new("RGB", (1024, 1024), (40, 90, 200)).save(photo)

    def step() -> None:
        pixels = torch.stack([_decode(photo, size) for _ in range(2)]).to(device, half)
        tokens = _tokens(pipeline, [SUBJECT, CLASS], device)
        with torch.autocast(device.type, half):
            with torch.no_grad():
                latents, states = _latents(vae, pixels), text(tokens)[0]
            subject, prior = _denoising_loss(unet, schedule, latents, states).chunk(2)
            loss = subject.mean() + prior.mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.detach().item()

    return step


def _latents(vae: Any, pixels: Tensor) -> Tensor:
    latents: Tensor = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
    return latents


def _tokens(pipeline: Any, captions: list[str], device: torch.device) -> Tensor:
    tokens: Tensor = pipeline.tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return tokens.to(device)


def _denoising_loss(unet: Any, schedule: Any, latents: Tensor, states: Tensor) -> Tensor:
    """Squared errors of the predicted noise (Ho et al. 2020, equation 14), unreduced."""
    noise = torch.randn_like(latents)
    timesteps = torch.randint(1000, (len(latents),), device=latents.device)
    noisy = schedule.add_noise(latents, noise, timesteps)
    prediction = unet(noisy, timesteps, states, return_dict=False)[0]
    return mse_loss(prediction.float(), noise.float(), reduction="none")


def _decode(photo: Path, size: int) -> Tensor:
    with Image.open(photo) as image:
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 127.5 - 1
