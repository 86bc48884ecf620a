"""Images from a diffusers pipeline, each fixed by its prompt and its own seed."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image
from torch import Tensor, nn

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.process import heartbeat

SCHEDULERS: dict[Sampler, tuple[Any, dict[str, Any]]] = {
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    # Latents are not bounded to -1..1, so nothing may be clipped.
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
}


@dataclass(frozen=True)
class ImageRequest:
    """One image. The seed fixes its initial noise, whatever the device, the batch and the rank."""

    prompt: str
    seed: int


def generate_images(
    pipeline: Any,
    requests: Sequence[ImageRequest],
    *,
    sampler: Sampler,
    steps: int,
    guidance_scale: float,
    size: int,
    negative_prompt: str = "",
    batch: int = 8,
) -> list[Image.Image]:
    """One square RGB image of `size` pixels per request.

    A guidance scale of 1 or less means no guidance (w = scale - 1 in Ho & Salimans 2022, equation
    6); above it, the conditional and the unconditional half go through the model as one batch.
    Modules run in eval mode, without gradients, in the precision of the surrounding
    `torch.autocast`; the pipeline and the global random state are left as they were.
    """
    images: list[Image.Image] = []
    with _borrowed(pipeline, sampler):
        for first in range(0, len(requests), batch):
            part = requests[first : first + batch]
            latents = pipeline(
                prompt=[request.prompt for request in part],
                negative_prompt=[negative_prompt] * len(part),
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in part],
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                height=size,
                width=size,
                output_type="latent",
                callback_on_step_end=_beat,
            ).images
            images += [_decode(pipeline, latent) for latent in latents]
    return images


def _beat(
    pipeline: Any, step: int, timestep: int | Tensor, tensors: dict[str, Any]
) -> dict[str, Any]:
    """Diffusers' hook after each denoising step; it may change `tensors`."""
    heartbeat.send()
    return tensors


@torch.no_grad()
def _decode(pipeline: Any, latent: Tensor) -> Image.Image:
    """Latent [C, h, w]. One by one, as decoders need much memory; bf16 would show as bands."""
    vae = pipeline.vae
    with torch.autocast(latent.device.type, enabled=False):
        scaled = latent[None].to(vae.dtype) / vae.config.scaling_factor
        decoded = vae.decode(scaled + (vae.config.get("shift_factor") or 0.0), return_dict=False)[0]
    image: Image.Image = pipeline.image_processor.postprocess(decoded.float().cpu())[0]
    return image


@contextmanager
def _borrowed(pipeline: Any, sampler: Sampler) -> Iterator[None]:
    """The pipeline with another scheduler, quiet and in eval mode; as it was afterwards."""
    scheduler_class, settings = SCHEDULERS[sampler]
    before, bar = pipeline.scheduler, getattr(pipeline, "_progress_bar_config", {})
    with ExitStack() as stack:
        stack.callback(setattr, pipeline, "scheduler", before)
        stack.callback(setattr, pipeline, "_progress_bar_config", bar)
        stack.enter_context(torch.random.fork_rng())
        # diffusers makes arrays of tensors in a way that numpy 2 deprecates.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                stack.enter_context(_evaluating(part))
        pipeline.scheduler = scheduler_class.from_config(before.config, **settings)
        pipeline.set_progress_bar_config(disable=True)
        yield


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
