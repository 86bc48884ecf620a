"""What is SDXL's own: sizes and crops, zeros for no caption, schedules, and who is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.crops import Variant
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.data.latents import ImageGroup
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.model_config import ModelConfig, read_model_config
from dreambooth_trainer.objectives.make import make_objective
from dreambooth_trainer.preflight.memory.stages import checkpoint_bytes
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from tests.corpus.models import edit
from tests.trainer.families.conftest import SIDE, build, load, load_plain
from tests.trainer.resolved import resolve_training

PROMPTS = ["a photo of sks dog", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny SDXL of its own for each test."""
    return Path(shutil.copytree(build("sdxl"), tmp_path / "sdxl"))


def read(folder: Path) -> ModelConfig:
    config = read_model_config(Model(source=str(folder)), Storage(StorageSettings()))
    assert config is not None
    return config


def plain_prediction(folder: Path, **arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents [1, 4, 8, 8], timestep and prediction of a plain pipeline's first step."""
    pipeline = load_plain(folder)
    calls: list[tuple[Tensor, Tensor]] = []
    pipeline.scheduler = load(folder).sampling_scheduler("ddim")
    step = pipeline.scheduler.step

    def record(output: Tensor, timestep: Tensor, sample: Tensor, **rest: Any) -> Any:
        calls.append((sample.clone(), timestep, output.clone()))
        return step(output, timestep, sample, **rest)

    pipeline.scheduler.step = record
    pipeline(
        PROMPTS[0], num_inference_steps=1, guidance_scale=1.0, height=SIDE, width=SIDE,
        output_type="latent", **arguments,
    )  # fmt: skip
    return calls[0]


def test_sizes_and_crops_are_given_as_plain_diffusers_gives_them(folder: Path) -> None:
    noisy, timestep, expected = plain_prediction(
        folder, original_size=(300, 200), crops_coords_top_left=(17, 3)
    )
    family = load(folder)
    with torch.no_grad():
        conditioning = family.encode_prompts(PROMPTS[:1])
        crops = torch.tensor([[300, 200, 17, 3]])
        found = family.predict(noisy, timestep[None], conditioning, crops)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        whole = family.predict(noisy, timestep[None], conditioning)
    assert (whole - expected).abs().max() > 1e-3


class PixelFamily:
    """Its latents are the pixels."""

    model_hash = "ab"

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def tokenize(self, captions: list[str]) -> dict[str, Tensor]:
        return {"ids": torch.zeros(len(captions), 1)}


def test_a_mirrored_crop_is_one_of_the_mirrored_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreambooth_trainer.data.cache.load_latents", lambda *_: torch.zeros(1))
    image = SourceImage("a.png", (400, 200), "", "", field="spec.x")
    variants = [Variant(0.25, mirror=False), Variant(0.25, mirror=True)]
    cache = build_cache(
        PixelFamily(),  # type: ignore[arg-type]
        [ImageGroup([image], ["a"], variants)],
        100,
        text_is_trained=True,
        store=None,  # type: ignore[arg-type]
        ranks=Ranks(Topology()),
        device=torch.device("cpu"),
    )
    # 50 of 400 pixels are cut off on one side, 150 on the other; then the image is halved.
    assert cache.crops.tolist() == [[200, 400, 0, 25], [200, 400, 0, 75]]


@pytest.mark.parametrize("zeros", [True, False])
def test_no_caption_is_zeros_where_the_model_was_trained_so(folder: Path, zeros: bool) -> None:
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=zeros)
    plain = load_plain(folder)
    states, negative, pooled, negative_pooled = plain.encode_prompt(PROMPTS[0])
    for family in (load(folder), read(folder).build()):
        assert family.pipeline().config.force_zeros_for_empty_prompt == zeros
    conditioning = load(folder).encode_prompts(PROMPTS)
    expected = {
        "hidden_states": torch.cat([states, negative]),
        "pooled": torch.cat([pooled, negative_pooled]),
    }
    torch.testing.assert_close(conditioning, expected)
    assert bool((conditioning["pooled"][1] == 0).all()) == zeros


@pytest.mark.parametrize("method", ["full", "lora"])
def test_all_that_is_trained_of_the_text_encoders_gets_a_gradient(
    folder: Path, method: str
) -> None:
    family = load(folder)
    training = resolve_training(
        {
            "method": method,
            "text_encoder": {"method": method},
            "learning_rate": 1e-4,
            "precision": "fp32",
        }
    )
    size = checkpoint_bytes(read(folder), training)
    trained = make_trainable(family, training)
    assert 12 * sum(p.numel() for p in trained.all.values()) == size
    for parameter in trained.text.values():  # B of an adapter starts at zero
        torch.nn.init.normal_(parameter)
    conditioning = family.encode_tokens(family.tokenize(PROMPTS))
    noisy = torch.randn(2, *family.latent_shape(SIDE))
    family.predict(noisy, torch.tensor([1, 500]), conditioning).square().mean().backward()
    assert {name.split(".")[0] for name in trained.text} == {"text_encoder", "text_encoder_2"}
    assert [name for name, p in trained.text.items() if p.grad is None] == []


def test_a_model_of_v_and_of_noise_alone_at_the_end(folder: Path) -> None:
    edit(
        folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    family = load(folder)
    assert family.alphas_cumprod[-1] == 0
    assert "pndm" not in family.defaults.samplers
    assert not family.training_notes
    objective = make_objective(family, resolve_training({}), torch.device("cpu"))
    latents, noise = torch.randn(2, 1, *family.latent_shape(SIDE))
    last = torch.tensor([999])
    assert torch.equal(objective.add_noise(latents, noise, last), noise)
    assert torch.equal(objective.target(latents, noise, last), -latents)
    for sampler in family.defaults.samplers:
        scheduler = family.sampling_scheduler(sampler)
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.alphas_cumprod[-1] < 1e-6


def turbo(folder: Path) -> None:
    edit(folder / "model_index.json", scheduler=["diffusers", "EulerAncestralDiscreteScheduler"])
    edit(folder / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")


def lcm(folder: Path) -> None:
    edit(folder / "model_index.json", scheduler=["diffusers", "LCMScheduler"])


@pytest.mark.parametrize("distill", [turbo, lcm])
def test_a_distilled_model_is_sampled_in_few_steps_and_has_a_note(
    folder: Path, distill: Any
) -> None:
    assert not read(folder).skeleton.training_notes
    distill(folder)
    family: Family = read(folder).skeleton
    assert "distilled" in family.training_notes[0]
    assert (family.defaults.sample_steps, family.defaults.guidance_scale) == (4, 1.0)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"in_channels": 9}, "inpainting and editing models cannot be trained"),
        ("unet", {"cross_attention_dim": 24}, "encoders make 40; the refiner cannot be trained"),
        ("unet", {"projection_class_embeddings_input_dim": 64}, "aesthetic scores"),
        ("unet", {"time_cond_proj_dim": 8}, "consistency models"),
        ("text_encoder", {"hidden_size": None}, "encoders make None"),
        ("text_encoder_2", {"projection_dim": "x"}, "which are None"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    folder: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    edit(folder / part / "config.json", **settings)
    with pytest.raises(BadModelError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("StableDiffusionXLImg2ImgPipeline", "refining images"),
        ("StableDiffusionXLInpaintPipeline", "inpainting"),
    ],
)
def test_other_pipelines_are_refused_by_name(folder: Path, name: str, purpose: str) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": name}))
    expected = f"is a {name}, for {purpose}, which cannot be trained; use a text-to-image"
    with pytest.raises(BadModelError, match=expected):
        read(folder)
