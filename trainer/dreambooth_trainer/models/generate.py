"""Images of a model, each fixed by its prompt and its own seed."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.prompts import join_rows, largest_shapes
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.signals import StoppedError

OnStep = Callable[[int, Callable[[int], Image.Image]], None]
"""Takes the number of the denoising step, from 1, and what decodes an image of the batch as it is
then, noise and all."""


@dataclass(frozen=True)
class ImageRequest:
    """One image. Its seed alone determines the initial noise, on any device and rank."""

    prompt: str
    seed: int


def generate_images(
    family: Family,
    requests: Sequence[ImageRequest],
    *,
    sampler: Sampler,
    steps: int,
    guidance_scale: float,
    size: int | tuple[int, int],
    negative_prompt: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """One RGB image per request, all in one batch.

    `size` is the side of squares, or width and height, in pixels. `on_step` is called after each
    denoising step but the last.

    What a guidance scale means is the family's business; for classifier-free guidance 1 or less is
    none (w = scale - 1 in Ho & Salimans 2022, equation 6), and above it the conditional and the
    unconditional half go through the model as one batch. Modules run in eval mode, without
    gradients, in the precision of the surrounding `torch.autocast`; the pipeline and the global
    random state are restored.

    Returns:
        The images in the order of their requests.

    Raises:
        StoppedError: `should_stop` returned True; it is called before each block of the denoiser.
    """
    width, height = (size, size) if isinstance(size, int) else size

    def after_step(
        _pipeline: Any, step: int, _timestep: int | Tensor, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Diffusers' hook after each denoising step; what it returns replaces `tensors`."""
        heartbeat.send()
        if on_step is not None and step + 1 < steps:
            latents = tensors["latents"]
            on_step(step + 1, lambda i: _decode(family, latents[i : i + 1], width, height))
        return tensors

    pipeline = family.pipeline()
    scheduler = family.sampling_scheduler(sampler)
    with ExitStack() as stack:
        stack.enter_context(_prepared(pipeline, scheduler))
        stack.enter_context(_stoppable(family.denoiser, should_stop))
        prompts = family.encode_prompts([request.prompt for request in requests])
        negative = family.encode_negative([negative_prompt] * len(requests))
        # Pipelines take both through the model as one batch, or with the same positions.
        shapes = largest_shapes([prompts, negative])
        device = next(iter(prompts.values())).device
        prompts, negative = (join_rows([each], device, shapes) for each in (prompts, negative))
        # Text encoders that have left the device would make the pipeline use another one.
        for part, encoder in family.text_encoders.items():
            stack.callback(setattr, pipeline, part, encoder)
            setattr(pipeline, part, None)
        latents = pipeline(
            **family.sampling_arguments(prompts, negative, guidance_scale),
            # CPU generators, as CUDA's give other numbers on other GPUs; one per image, so that the
            # batch an image is in does not matter.
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
            num_inference_steps=steps,
            height=height,
            width=width,
            # Decoded below, in fp32: the pipeline would decode under autocast, all at once.
            output_type="latent",
            callback_on_step_end=after_step,
        ).images
        return [_decode(family, latents[i : i + 1], width, height) for i in range(len(requests))]


@contextmanager
def _stoppable(denoiser: nn.Module, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Within, the denoiser raises `StoppedError` as soon as `should_stop` returns True."""

    def check_stop(*_: Any) -> None:
        if should_stop():
            raise StoppedError("asked to stop while generating images")

    check_stop()
    # Not only between steps: on a CPU, a step of large images takes minutes.
    lists = (part for part in denoiser.modules() if isinstance(part, nn.ModuleList))
    hooks = [block.register_forward_pre_hook(check_stop) for blocks in lists for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _decode(family: Family, latents: Tensor, width: int, height: int) -> Image.Image:
    """The image of one item of what the pipeline returns."""
    # One at a time, which bounds the memory of the VAE's activations, and in fp32, as bf16 causes
    # visible bands.
    with torch.autocast(latents.device.type, enabled=False):
        pixels = family.decode_latents(latents, width, height)
    image: Image.Image = family.pipeline().image_processor.postprocess(pixels.float().cpu())[0]
    return image


@contextmanager
def _prepared(pipeline: Any, scheduler: Any) -> Iterator[None]:
    """Within, the pipeline has this scheduler and no progress bar, and is in eval mode."""
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
                stack.enter_context(eval_mode(part))
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(disable=True)
        yield


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within, the module is in eval mode; each of its parts gets its own mode back."""
    # Per module: frozen parts of a model in training may be in eval mode already.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
