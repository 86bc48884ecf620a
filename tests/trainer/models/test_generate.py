"""An image is fixed by prompt and seed, follows the guidance formula, and leaves no trace."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from dreambooth_api.models.prior import Sampler
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.process.signals import StoppedError

PROMPT = "a photo of a mug"


@pytest.fixture
def family(random_pipeline: Any) -> StableDiffusion:
    return StableDiffusion(random_pipeline, "")


def generate(family: StableDiffusion, *requests: ImageRequest, **settings: Any) -> list[np.ndarray]:
    """Images as integers [64, 64, 3]."""
    defaults = {"sampler": "ddim", "steps": 3, "guidance_scale": 5.0, "size": 64}
    images = generate_images(family, requests, **{**defaults, **settings})
    assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in images)
    return [np.asarray(image).astype(int) for image in images]


def differ(left: np.ndarray, right: np.ndarray) -> int:
    """Largest difference in levels of 255."""
    return int(np.abs(left - right).max())


def test_seed_and_prompt_alone_decide(family: StableDiffusion) -> None:
    requests = [
        ImageRequest(PROMPT, 1),
        ImageRequest("a red fish", 1),
        ImageRequest(PROMPT, 2),
        ImageRequest(PROMPT, 3),
    ]
    together = generate(family, *requests)
    torch.manual_seed(123)
    alone = [generate(family, request)[0] for request in reversed(requests)][::-1]
    assert max(map(differ, together, alone)) <= 1  # another batch size rounds differently
    assert max(map(differ, together, generate(family, *requests))) == 0
    assert differ(together[0], together[1]) > 10, "the prompt does nothing"
    assert differ(together[0], together[2]) > 10, "the seed does nothing"


@pytest.mark.parametrize("sampler", get_args(Sampler))
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_every_sampler_works_at_any_number_of_steps(
    family: StableDiffusion, sampler: Sampler, steps: int
) -> None:
    [image] = generate(family, ImageRequest(PROMPT, 0), sampler=sampler, steps=steps)
    assert image.shape == (64, 64, 3)
    assert image.std() > 1


def test_samplers_differ_and_agree_on_the_same_image(family: StableDiffusion) -> None:
    """All of them solve the same differential equation, each with its own error."""
    images = [
        generate(family, ImageRequest(PROMPT, 0), sampler=sampler, steps=60, guidance_scale=1)[0]
        for sampler in get_args(Sampler)
    ]
    for image in images[1:]:
        assert 0 < np.abs(image - images[0]).mean() < 0.2 * images[0].std()


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("negative", ["", "blue"])
def test_guidance_is_that_of_the_formula(
    family: StableDiffusion, guidance: float, negative: str
) -> None:
    expected = by_hand(
        family.pipeline(), guidance if guidance > 1 else 1, negative, seed=7, steps=4
    )
    [found] = generate(
        family, ImageRequest(PROMPT, 7), steps=4, guidance_scale=guidance,
        negative_prompt=negative,
    )  # fmt: skip
    assert differ(found, expected) <= 1


def test_guidance_and_negative_prompt_matter(family: StableDiffusion) -> None:
    plain, guided, steered = (
        by_hand(family.pipeline(), guidance, negative, seed=7, steps=4)
        for guidance, negative in [(1, ""), (4, ""), (4, "blue")]
    )
    assert differ(plain, guided) > 5
    assert differ(guided, steered) > 5


@torch.no_grad()
def by_hand(pipe: Any, guidance: float, negative: str, seed: int, steps: int) -> np.ndarray:
    """DDIM (Song et al. 2021, equation 12, eta 0) with guidance, each half by itself."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)

    def embed(text: str) -> torch.Tensor:
        tokens = pipe.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt")
        return pipe.text_encoder(tokens.input_ids)[0]

    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(seed))
    for t in reversed(range(1, 1001, 1000 // steps)):
        wanted = pipe.unet(x, t, embed(PROMPT)).sample
        unwanted = pipe.unet(x, t, embed(negative)).sample
        noise = unwanted + guidance * (wanted - unwanted)
        earlier = t - 1000 // steps
        alpha, alpha_earlier = alphas[t], alphas[earlier] if earlier >= 0 else alphas[0]
        clean = (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        x = alpha_earlier.sqrt() * clean + (1 - alpha_earlier).sqrt() * noise
    pixels = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(int)


def test_everything_is_left_as_it_was(family: StableDiffusion, capfd: Any) -> None:
    family.pipeline().unet.train()
    family.pipeline().unet.mid_block.eval()
    modes = [module.training for module in family.pipeline().unet.modules()]
    scheduler, state = family.pipeline().scheduler, torch.get_rng_state()
    generate(family, ImageRequest(PROMPT, 0))
    assert [module.training for module in family.pipeline().unet.modules()] == modes
    assert family.pipeline().scheduler is scheduler
    assert torch.get_rng_state().equal(state)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="divisible by 8"):
        generate(family, ImageRequest(PROMPT, 0), size=63)
    assert [module.training for module in family.pipeline().unet.modules()] == modes
    assert family.pipeline().scheduler is scheduler


def test_stop_ends_generation_within_a_step(family: StableDiffusion) -> None:
    unet, scheduler = family.pipeline().unet, family.pipeline().scheduler
    begun: list[int] = []
    ended: list[int] = []
    unet.conv_in.register_forward_hook(lambda *_: begun.append(1))
    unet.conv_out.register_forward_hook(lambda *_: ended.append(1))
    with pytest.raises(StoppedError):
        generate(family, ImageRequest(PROMPT, 0), steps=9, should_stop=lambda: len(begun) == 2)
    assert (len(begun), len(ended)) == (2, 1)
    assert family.pipeline().scheduler is scheduler
    with pytest.raises(StoppedError):
        generate(family, ImageRequest(PROMPT, 0), should_stop=lambda: True)
    assert len(begun) == 2
    generate(family, ImageRequest(PROMPT, 0))


def test_dropout_is_off_while_images_are_made(family: StableDiffusion) -> None:
    [before] = generate(family, ImageRequest(PROMPT, 0))
    for module in family.pipeline().unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    family.pipeline().unet.train()
    [after] = generate(family, ImageRequest(PROMPT, 0))
    assert (before == after).all()


def test_training_goes_on_after_images_were_made_under_autocast(family: StableDiffusion) -> None:
    """Weights cast while gradients were off must not be reused by the next training step."""
    unet = family.pipeline().unet.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        [image] = generate(family, ImageRequest(PROMPT, 0))
        loss = unet(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 77, 16)).sample.square().mean()
    loss.backward()
    assert image.std() > 1
    assert unet.conv_in.weight.grad is not None
    assert unet.mid_block.resnets[0].conv1.weight.grad.abs().sum() > 0


def test_half_precision_stays_close_to_full(family: StableDiffusion) -> None:
    [full] = generate(family, ImageRequest(PROMPT, 0))
    with torch.autocast("cpu", torch.bfloat16):
        [half] = generate(family, ImageRequest(PROMPT, 0))
    assert 0 < np.abs(full - half).mean() < 0.1 * full.std()


@pytest.fixture(scope="module")
def tiny_sd() -> Any:
    """The examples' model, which knows what it draws."""
    folder = Path(__file__).parents[3] / "examples" / "tiny-sd" / "model"
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_a_real_model_draws_what_the_prompt_says(tiny_sd: Any, sampler: Sampler) -> None:
    red, blue = generate(
        StableDiffusion(tiny_sd, ""),
        ImageRequest("a photo of a red mug", 0),
        ImageRequest("a photo of a blue mug", 0),
        sampler=sampler,
        steps=12,
    )
    of_red, of_blue = (image[24:48, 20:40].mean((0, 1)) for image in (red, blue))  # on the mug
    assert of_red[0] - of_red[2] > 80
    assert of_blue[2] - of_blue[0] > 80
