"""A LoRA of every family draws the same in plain diffusers as in training."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import is_torchvision_available

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.export.lora import KOHYA_FILE, LORA_FILE, export_lora
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import make_trainable
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.resolved_job import ResolvedTraining
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.export.test_readme import python_blocks
from tests.trainer.families.conftest import SIDE, call_plain, load, load_plain

REQUESTS = [ImageRequest("a photo of sks dog", 1), ImageRequest("a mug", 2)]


def training(job: MakeJob, family: Family, **values: Any) -> ResolvedTraining:
    """`spec.training` with the family's defaults."""
    config = job(training={"method": "lora", **values})
    parsed = DreamBoothJob.model_validate(config)
    return fill_defaults(parsed, family.defaults, family.flow_shift).spec.training


def draw(family: Family) -> np.ndarray:
    """Images [2, 64, 64, 3] with the family's own guidance, as levels of 255."""
    images = generate_images(
        family,
        REQUESTS,
        sampler=family.defaults.sampler,
        steps=3,
        guidance_scale=family.defaults.guidance_scale,
        size=SIDE,
    )
    return np.stack([np.asarray(image).astype(int) for image in images])


def adapted(job: MakeJob, family: Family, targets: Sequence[str] = ()) -> None:
    """Add adapters whose alpha is not their rank, and pretend that they were trained."""
    settings: dict[str, Any] = {"lora": {"rank": 4, "alpha": 2}}
    if targets:
        settings["lora"]["targets"] = list(targets)
    if family.trains_text:
        settings["textEncoder"] = {"method": "lora"}
    trained = make_trainable(family, training(job, family, **settings))
    assert trained.denoiser
    assert bool(trained.text) == family.trains_text
    seeded = torch.Generator().manual_seed(5)
    for parameter in trained.all.values():
        parameter.data = torch.randn(parameter.shape, generator=seeded) * 0.5


def test_a_lora_draws_the_same_in_plain_diffusers(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path
) -> None:
    before = draw(family)
    adapted(job, family)
    trained = draw(family)
    assert np.abs(trained - before).mean() > 1
    export_lora(family, tmp_path, ABOUT)
    files = [LORA_FILE, *([KOHYA_FILE] if (tmp_path / KOHYA_FILE).exists() else [])]
    for file in files:
        plain = load_plain(folder)
        plain.load_lora_weights(tmp_path, weight_name=file)
        found = draw(type(family)(plain, ""))
        assert np.abs(found - trained).max() <= 1, file


def test_the_family_is_in_the_models_card(job: MakeJob, family: Family, tmp_path: Path) -> None:
    adapted(job, family)
    export_lora(family, tmp_path, ABOUT)
    card = (tmp_path / "README.md").read_text()
    assert f"from diffusers import {family.pipeline_class.__name__}" in card
    assert f"- {family.card_tag}\n" in card


def test_the_code_of_the_card_draws_an_image(
    job: MakeJob, folder: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family.pipeline_class.__name__ == "Flux2Pipeline" and not is_torchvision_available():
        pytest.skip("its processor of images needs torchvision")
    adapted(job, family)
    export_lora(family, tmp_path, ABOUT)
    (tmp_path / "path/to/the/base").mkdir(parents=True)
    (tmp_path / "path/to/the/base/model").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    [code] = python_blocks((tmp_path / "README.md").read_text())
    names: dict[str, Any] = {}
    with warnings.catch_warnings():  # of schedulers, with NumPy 2
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        exec(compile(code, "README.md", "exec"), names)
    assert names["image"].size == (SIDE, SIDE)
    assert np.asarray(names["image"]).std() > 1


def test_generated_images_are_those_of_a_plain_pipeline(folder: Path, family: Family) -> None:
    guidance = family.defaults.guidance_scale
    plain = load_plain(folder)
    plain.scheduler = family.sampling_scheduler(family.defaults.sampler)
    expected = call_plain(
        plain,
        [each.prompt for each in REQUESTS],
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(each.seed) for each in REQUESTS],
        num_inference_steps=3,
        output_type="pil",
    )
    for ours, theirs in zip(draw(load(folder)), expected, strict=True):
        assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1
