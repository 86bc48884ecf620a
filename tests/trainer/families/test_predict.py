"""What training computes is what plain diffusers' pipeline computes at the same step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreambooth_trainer.models import Family
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from tests.trainer.families.conftest import SIDE, call_plain, load_plain

PROMPTS = ["a photo of sks dog", "a red mug on the beach, seen from above", "zebra"]


@dataclass
class Step:
    """What a pipeline gives its scheduler: the model's prediction for a noisy sample."""

    sample: Tensor
    timestep: Tensor
    prediction: Tensor


def plain_steps(
    folder: Path, family: Family, prompts: list[str], size: tuple[int, int]
) -> list[Step]:
    """The steps of a plain pipeline, without guidance; `size` is width and height."""
    pipeline = load_plain(folder)
    if family.objective_kind == "ddpm":  # other samplers scale what the model sees
        pipeline.scheduler = family.sampling_scheduler("ddim")
    steps, step = [], pipeline.scheduler.step

    def record(
        model_output: Tensor, timestep: Tensor, sample: Tensor, *rest: Any, **kw: Any
    ) -> Any:
        steps.append(Step(sample.clone(), timestep, model_output.clone()))
        return step(model_output, timestep, sample, *rest, **kw)

    pipeline.scheduler.step = record
    call_plain(
        pipeline,
        prompts,
        guidance_scale=family.unguided_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        num_inference_steps=3,
        output_type="latent",
        width=size[0],
        height=size[1],
    )
    return steps


@pytest.mark.parametrize(
    ("count", "size"), [(1, (SIDE, SIDE)), (3, (SIDE, SIDE)), (2, (128, 64)), (1, (64, 128))]
)
def test_predictions_are_those_of_the_plain_pipeline(
    folder: Path, family: Family, count: int, size: tuple[int, int]
) -> None:
    prompts = PROMPTS[:count]
    with torch.no_grad():
        conditioning = family.encode_tokens(family.tokenize(prompts))
        assert {len(part) for part in conditioning.values()} == {count}
        for step in plain_steps(folder, family, prompts, size):
            noisy = family.unpack_latents(step.sample.float(), *size)
            assert noisy.shape == (count, *family.latent_shape(*size))
            timestep = step.timestep.expand(count)
            if family.objective_kind == "flow":
                timestep = timestep.float() / 1000
            found = family.predict(noisy, timestep, conditioning)
            expected = family.unpack_latents(step.prediction.float(), *size)
            assert expected.std() > 1e-3
            torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_images_of_other_shapes_than_squares_are_drawn(family: Family) -> None:
    [image] = generate_images(
        family,
        [ImageRequest(PROMPTS[0], 1)],
        sampler=family.defaults.sampler,
        steps=2,
        guidance_scale=family.defaults.guidance_scale,
        size=(128, 64),
    )
    assert image.size == (128, 64)


def test_latents_are_what_the_plain_pipeline_decodes(folder: Path, family: Family) -> None:
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    moments = family.encode_images(pixels)
    latents = family.sample_latents(moments, torch.zeros(1, *family.latent_shape(SIDE)))
    pipeline = load_plain(folder)
    decoded, decode = [], pipeline.vae.decode

    def end(_output: Tensor, _timestep: Tensor, sample: Tensor, **_options: Any) -> Any:
        """The latents of the image instead of those that the model leads to."""
        places = torch.arange(sample.numel()).view(sample.shape)
        places = family.unpack_latents(places, SIDE)
        return (latents.flatten()[places.flatten().argsort()].view(sample.shape),)

    def record(latents: Tensor, **options: Any) -> Any:
        decoded.append(latents)
        return decode(latents, **options)

    pipeline.scheduler.step, pipeline.vae.decode = end, record
    call_plain(pipeline, PROMPTS[:1], guidance_scale=family.unguided_scale, num_inference_steps=2)
    [found] = decoded
    mean = moments[:, : family.latent_channels]
    torch.testing.assert_close(found.view(mean.shape), mean, rtol=1e-4, atol=1e-4)


def test_every_caption_and_every_timestep_counts(family: Family) -> None:
    noisy = torch.randn(1, *family.latent_shape(SIDE), generator=torch.Generator().manual_seed(0))
    early, late = (
        (torch.tensor([10]), torch.tensor([900]))
        if family.objective_kind == "ddpm"
        else (torch.tensor([0.1]), torch.tensor([0.9]))
    )
    with torch.no_grad():
        mug, dog = (family.encode_tokens(family.tokenize([text])) for text in ("a mug", "a dog"))
        reference = family.predict(noisy, early, mug)
        assert (family.predict(noisy, early, dog) - reference).abs().max() > 1e-4
        assert (family.predict(noisy, late, mug) - reference).abs().max() > 1e-4


def test_gradient_checkpointing_changes_no_prediction(family: Family) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, *family.latent_shape(SIDE), generator=generator)
    is_ddpm = family.objective_kind == "ddpm"
    timesteps = torch.tensor([10, 900]) if is_ddpm else torch.tensor([0.1, 0.9])
    conditioning = family.encode_prompts(PROMPTS[:2])
    family.denoiser.requires_grad_(True).train()
    expected = family.predict(noisy, timesteps, conditioning)
    family.denoiser.enable_gradient_checkpointing()
    found = family.predict(noisy, timesteps, conditioning)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.square().mean().backward()


def test_the_halves_of_guidance_take_as_many_passes_as_in_the_plain_pipeline(
    folder: Path, family: Family
) -> None:
    pipeline = load_plain(folder)
    batches: list[int] = []

    def record(_module: Any, args: Any, options: dict[str, Any]) -> None:
        noisy = args[0] if args else options["hidden_states"]
        batches.append(len(noisy))

    denoiser = getattr(pipeline, family.denoiser_part)
    denoiser.register_forward_pre_hook(record, with_kwargs=True)
    call_plain(
        pipeline,
        PROMPTS[:1],
        guidance_scale=max(family.defaults.guidance_scale, 2.0),
        num_inference_steps=2,
        output_type="latent",
    )
    if not family.defaults.takes_negative_prompt:
        assert batches == [1, 1]
    else:
        assert batches == 2 * ([2] if family.guides_in_one_pass else [1, 1])
