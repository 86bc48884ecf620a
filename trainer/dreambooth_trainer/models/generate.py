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
    """One image. Its seed alone determines the initial noise, on any device and rank."""

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
) -> list[Image.Image]:
    """One square RGB image of `size` pixels per request, all in one batch.

    A guidance scale of 1 or less means no guidance (w = scale - 1 in Ho & Salimans 2022, equation
    6); above it, the conditional and the unconditional half go through the model as one batch.
    Modules run in eval mode, without gradients, in the precision of the surrounding
    `torch.autocast`; the pipeline and the global random state are restored.

    Returns:
        The images in the order of their requests.
    """
    with _prepared(pipeline, sampler):
        latents = pipeline(
            prompt=[request.prompt for request in requests],
            negative_prompt=[negative_prompt] * len(requests),
            # CPU generators, as CUDA's give other numbers on other GPUs; one per image, so that the
            # batch an image is in does not matter.
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            height=size,
            width=size,
            # Decoded below, in fp32: the pipeline would decode under autocast, all at once.
            output_type="latent",
            callback_on_step_end=_send_heartbeat,
        ).images
        return [_decode(pipeline, latent) for latent in latents]


def _send_heartbeat(
    _pipeline: Any, _step: int, _timestep: int | Tensor, tensors: dict[str, Any]
) -> dict[str, Any]:
    """Diffusers' hook after each denoising step; what it returns replaces `tensors`."""
    heartbeat.send()
    return tensors


@torch.no_grad()
def _decode(pipeline: Any, latent: Tensor) -> Image.Image:
    """The image of a latent [C, h, w]."""
    # One at a time, which bounds the memory of the VAE's activations, and in fp32, as bf16 causes
    # visible bands.
    vae = pipeline.vae
    with torch.autocast(latent.device.type, enabled=False):
        scaled = latent[None].to(vae.dtype) / vae.config.scaling_factor
        decoded = vae.decode(scaled + (vae.config.get("shift_factor") or 0.0), return_dict=False)[0]
    image: Image.Image = pipeline.image_processor.postprocess(decoded.float().cpu())[0]
    return image


@contextmanager
def _prepared(pipeline: Any, sampler: Sampler) -> Iterator[None]:
    """Within, the pipeline has the sampler's scheduler and no progress bar, and is in eval mode."""
    scheduler_class, settings = SCHEDULERS[sampler]
    before, bar = pipeline.scheduler, getattr(pipeline, "_progress_bar_config", {})
    with ExitStack() as stack:
        stack.callback(setattr, pipeline, "scheduler", before)
        stack.callback(setattr, pipeline, "_progress_bar_config", bar)
        # Training's dropout must not depend on how many samples were generated before. Only the
        # pipeline's own GPU: by default, every rank would start CUDA on all GPUs of the node.
        gpus = [pipeline.device] if pipeline.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(gpus))
        # diffusers converts tensors to arrays in a way that numpy 2 deprecates.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                stack.enter_context(_eval_mode(part))
        pipeline.scheduler = scheduler_class.from_config(before.config, **settings)
        pipeline.set_progress_bar_config(disable=True)
        yield


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    # Per module: frozen parts of a model in training may be in eval mode already.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
