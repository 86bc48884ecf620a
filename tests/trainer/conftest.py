"""Fixtures that the trainer's tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from tests.trainer.random_model import save_random_model


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion model with random weights (`save_random_model`)."""
    folder = tmp_path_factory.mktemp("random-model")
    save_random_model(folder)
    return folder


@pytest.fixture
def random_pipeline(random_model: Path) -> Any:
    """The random model, loaded anew."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_model, safety_checker=None)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False)
    return pipeline


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four images of a subject."""
    folder = tmp_path_factory.mktemp("subject")
    for number in range(4):
        image = Image.new("RGB", (80, 96), (40 * number, 200, 90))
        ImageDraw.Draw(image).ellipse((10, 10 + number * 5, 60, 70), fill=(220, 40, 50 * number))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def prior_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all runs of a module, so that class images are generated once."""
    return tmp_path_factory.mktemp("prior-cache")


MakeJob = Callable[..., dict[str, Any]]


@pytest.fixture
def job(random_model: Path, subject: Path, prior_cache: Path, tmp_path: Path) -> MakeJob:
    """Make jobs on a random model with 8 steps; a section given by name edits its spec."""

    def make(uid: str = "run", **changes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "model": {"source": str(random_model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": f"file://{subject}"}],
            "output": f"file://{tmp_path}/output",
            "prior": {
                # With the default weight, a model of random weights learns so fast that what ranks
                # round differently grows past the tolerances of tests within 8 steps.
                "target": "prediction", "emptyPromptFraction": 0.5, "weight": 1.0,
                "count": 6, "steps": 2, "cache": f"file://{prior_cache}",
            },
            "training": {
                "method": "full", "steps": 8, "globalBatch": 4, "resolution": 64,
                "learningRate": 1e-3, "precision": "fp32",
            },
            "checkpoints": {"every": 100},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        }  # fmt: skip
        for section, change in changes.items():
            spec[section] = (
                {**spec.get(section, {}), **change} if isinstance(change, dict) else change
            )
        return {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "test", "namespace": "default", "uid": uid},
            "spec": spec,
        }

    return make
