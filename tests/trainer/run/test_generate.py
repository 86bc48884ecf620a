"""Images of a run's result: those of its samples, and others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreambooth_api.images.generation import Generation
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.errors import BadConfigError, BadModelError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.generate import file_names, generate
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.ranks import run_folder, run_ranks

PROMPTS = ["a photo of sks mug", "a mug"]
SAMPLES = {"prompts": PROMPTS, "count": 5, "seed": 7, "steps": 2}
"""Ten images: two forward passes, of which the second is smaller."""
Job = Callable[..., dict[str, Any]]


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def trained(job: Job, tmp_path: Path) -> Train:
    """Trains a job to its end."""

    def train(uid: str, model: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
        made = job(
            uid,
            model=model or {},
            training={"learningRate": 1e-2, "steps": 2, **training},
            prior={"enabled": False},
            checkpoints={"every": 1, "keep": 3},
            samples=SAMPLES,
        )
        ended = run_ranks(made, tmp_path / f"ranks-{uid}")
        assert ended.codes == [0], "\n".join(ended.logs)
        return made

    return train


def run(job: dict[str, Any], folder: Path, **wanted: Any) -> Telemetry:
    """Generate in this process; by default, the job's own samples."""
    parsed = DreamBoothJob.model_validate(job)
    telemetry = Telemetry(parsed, Topology())
    asked = {"prompts": PROMPTS, "count": 5, "seed": 7, **wanted}
    request = Generation(root=f"file://{run_folder(job)}", folder=str(folder), **asked)
    file = folder.with_suffix(".json")
    file.write_text(request.model_dump_json())
    generate(parsed, Topology(), StopSignal(), telemetry, file)
    return telemetry


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def samples(job: dict[str, Any], step: int = 2) -> list[np.ndarray]:
    folder = run_folder(job) / f"samples/step-{step:08d}"
    return [pixels(folder / f"{prompt}-{index}.png") for prompt in range(2) for index in range(5)]


def images(folder: Path) -> list[np.ndarray]:
    requests = [ImageRequest(prompt, 7 + index) for prompt in PROMPTS for index in range(5)]
    return [pixels(folder / name) for name in file_names(requests)]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for image, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, other)


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_the_images_of_the_jobs_prompts_are_its_samples(
    trained: Train, tmp_path: Path, kind: str
) -> None:
    made = trained(kind, method="lora", lora={"rank": 4, "type": kind}, precision="bf16")
    run(made, tmp_path / "images")
    found = images(tmp_path / "images")
    assert len({image.tobytes() for image in found}) == 10
    assert_same(found, samples(made))


def test_a_lora_of_a_model_in_few_bits_makes_its_samples(trained: Train, tmp_path: Path) -> None:
    model = {"quantization": {"denoiser": "int8"}}
    made = trained("bits", model, method="lora", lora={"rank": 4}, precision="bf16")
    run(made, tmp_path / "images")
    assert_same(images(tmp_path / "images"), samples(made))


def test_images_of_a_lora_and_of_its_checkpoints(trained: Train, tmp_path: Path) -> None:
    made = trained("lora", method="lora", lora={"rank": 4}, precision="bf16")
    folder = tmp_path / "images"
    telemetry = run(made, folder)
    assert_same(images(folder), samples(made))
    assert telemetry.notes == ()
    assert sorted(path.name for path in folder.iterdir())[:2] == ["a-mug-10.png", "a-mug-11.png"]
    assert (folder / "grid.png").exists()
    # Without its adapters it is the base model.
    run(made, folder, adapter_weight=0.0)
    assert_same(images(folder), samples(made, 0))
    # A job that is still training: its newest checkpoint, or the one that is named.
    shutil.rmtree(run_folder(made) / "export")
    assert run(made, folder).notes == ("images of the checkpoint of step 2",)
    assert_same(images(folder), samples(made))
    run(made, folder, step=1)
    assert any((a != b).any() for a, b in zip(images(folder), samples(made), strict=True))
    with pytest.raises(BadConfigError, match="no checkpoint of that step, but of 1, 2"):
        run(made, folder, step=3)
    shutil.rmtree(run_folder(made) / "checkpoints")
    with pytest.raises(BadModelError, match="neither an exported model nor a checkpoint yet"):
        run(made, folder)


def test_a_whole_model_makes_its_samples_from_a_checkpoint_and_nearly_from_the_export(
    trained: Train, tmp_path: Path
) -> None:
    made = trained("full", method="full", learningRate=1e-3)
    run(made, tmp_path / "checkpoint", step=2)
    assert_same(images(tmp_path / "checkpoint"), samples(made))
    run(made, tmp_path / "export")
    for exported, sample in zip(images(tmp_path / "export"), samples(made), strict=True):
        # Its weights are rounded to fp16.
        assert np.abs(exported - sample).mean() < 1
    with pytest.raises(BadConfigError, match="a whole model without adapters"):
        run(made, tmp_path / "images", adapter_weight=0.5)
    settings = {"steps": 3, "guidance_scale": 2.0, "negative_prompt": "blur", "width": 96}
    run(made, tmp_path / "wide", prompts=["a mug"], count=1, seed=3, height=64, **settings)
    image = Image.open(tmp_path / "wide" / "a-mug-3.png")
    assert image.size == (96, 64)
    made_by = json.loads(image.text["dreambooth"])
    named = {"prompt": "a mug", "seed": 3, "steps": 3, "guidanceScale": 2.0, "width": 96}
    assert made_by.items() >= named.items()
    assert (
        "Negative prompt: blur\nSteps: 3, Sampler: dpm-solver++, CFG scale: 2.0"
        in (image.text["parameters"])
    )
    with pytest.raises(BadConfigError, match="width 97: must be a multiple of 4"):
        run(made, tmp_path / "odd", width=97)


def test_equal_names_get_a_number() -> None:
    requests = [ImageRequest("A mug!", 1), ImageRequest("a  mug", 1), ImageRequest("?", 1)]
    assert file_names(requests) == ["a-mug-1.png", "a-mug-1.1.png", "image-1.png"]
