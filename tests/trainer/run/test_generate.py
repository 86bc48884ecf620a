"""Images of a run's result: those of its samples, and others."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.images.generation import Generation
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.errors import BadConfigError, BadModelError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.generate import file_names, generate, unusual_size
from dreambooth_trainer.run.result import divided_as_trained, resolve
from dreambooth_trainer.run.train import open_storage
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.ranks import run_folder, run_ranks
from tests.trainer.serving.server import write_run

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
    with pytest.raises(BadModelError, match="has ended, but export/ is missing"):
        run(made, folder)


@pytest.mark.parametrize("chosen", ["fsdp", "ddp", None])
def test_a_model_that_preflight_has_divided_is_whole_on_one_gpu(
    random_model: Path, tmp_path: Path, chosen: str | None
) -> None:
    folder = write_run(tmp_path / "runs", random_model, "mug", "uid", seed=1)
    record = json.loads((folder / "run.json").read_text())
    job = DreamBoothJob.model_validate(record["job"])
    if chosen is not None:
        record["job"]["spec"]["runtime"]["strategy"] = chosen
    (folder / "run.json").write_text(json.dumps(record))
    telemetry = Telemetry(job, Topology())
    storage = open_storage(job, telemetry)
    resolved = divided_as_trained(resolve(job, storage), storage, OutputLayout(f"file://{folder}"))
    assert resolved.spec.runtime.strategy == chosen
    asked: dict[str, Any] = {"prompts": ["a mug"], "count": 1, "seed": 7, "steps": 1}
    request = Generation(root=f"file://{folder}", folder=str(tmp_path / "images"), **asked)
    (tmp_path / "request.json").write_text(request.model_dump_json())
    generate(job, Topology(), StopSignal(), telemetry, tmp_path / "request.json")
    said = any("here it is whole" in note for note in telemetry.notes)
    assert said is (chosen == "fsdp")


@pytest.mark.parametrize("training", [{"method": "lora", "lora": {"rank": 4}}, {"method": "full"}])
def test_ranks_divide_a_model_as_its_training_did(
    trained: Train, tmp_path: Path, training: dict[str, Any]
) -> None:
    made = trained("divided", **training)
    made["spec"]["runtime"] = {"gpusPerNode": 0, "strategy": "fsdp"}
    for step, name in ((2, "checkpoint"), (None, "export")):
        request = Generation(
            root=f"file://{run_folder(made)}",
            folder=str(tmp_path / name),
            prompts=PROMPTS,
            count=5,
            seed=7,
            step=step,
        )
        file = tmp_path / f"{name}.json"
        file.write_text(request.model_dump_json(exclude_none=True))
        how: dict[str, Any] = {"nodes": 2, "prepare": must_be_divided}
        ended = run_ranks(made, tmp_path / name, **how, arguments=("--generate", str(file)))
        assert ended.codes == [0, 0], "\n".join(ended.logs)
        for found, sample in zip(images(tmp_path / name), samples(made), strict=True):
            # The weights of a whole model are rounded to fp16 in its export.
            is_rounded = step is None and training["method"] == "full"
            assert np.abs(found - sample).mean() <= (1 if is_rounded else 0)


def must_be_divided() -> None:
    """In a rank: images of a whole model are an error."""
    module: Any = importlib.import_module("dreambooth_trainer.evaluation.image_generator")
    generator = module.ImageGenerator
    original = generator._generate

    def checked(self: Any, chunk: Any) -> Any:
        assert self._sharded
        return original(self, chunk)

    generator._generate = checked


def test_a_whole_model_makes_its_samples_from_a_checkpoint_and_nearly_from_the_export(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert made_by["model"]["source"] == made["spec"]["model"]["source"]
    assert {"sha256", "precision", "version", "torch", "sampler", "result"} <= made_by.keys()
    assert (
        "Negative prompt: blur\nSteps: 3, Sampler: dpm-solver++, CFG scale: 2.0"
        in (image.text["parameters"])
    )
    with pytest.raises(BadConfigError, match="width 97: must be a multiple of 8"):
        run(made, tmp_path / "odd", width=97)
    monkeypatch.setattr("dreambooth_trainer.run.generate.MAX_SHOWN", 3)
    telemetry = run(made, tmp_path / "few", prompts=["a mug", "a cup"], count=2)
    assert len(list((tmp_path / "few").glob("a-*.png"))) == 4
    assert telemetry.progress.snapshot().figures() == ["image 4/4"]
    # Before anything is loaded.
    monkeypatch.setattr(StableDiffusion, "largest_side", 128)
    monkeypatch.setattr("dreambooth_trainer.run.generate.load_result", None)
    with pytest.raises(BadConfigError, match="width 132: must be at most 128") as error:
        run(made, tmp_path / "large", width=132, height=65)
    assert "height 65: must be a multiple of 8" in str(error.value)


def test_a_stop_ends_a_step_that_takes_long(random_model: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", random_model, "mug", "uid", seed=1)
    record = json.loads((folder / "run.json").read_text())
    record["job"]["spec"]["prior"]["prompts"] = ["a {classNoun}"]  # from before this was refused
    (tmp_path / "job.yaml").write_text(json.dumps(record["job"]))
    request = Generation(
        root=f"file://{folder}", folder=str(tmp_path / "images"), prompts=["a mug"], count=1, seed=7
    )
    (tmp_path / "request.json").write_text(request.model_dump_json())
    # In C, where no handler of Python runs.
    program = """
import ctypes, sys
from diffusers import UNet2DConditionModel
from dreambooth_trainer.__main__ import main

def forward(*_, **__):
    print("denoising", flush=True)
    ctypes.PyDLL(None).usleep(60_000_000)

UNet2DConditionModel.forward = forward
sys.exit(main())
"""
    arguments = ["--config", tmp_path / "job.yaml", "--generate", tmp_path / "request.json"]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "denoising\n"
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("size", "is_far"),
    [((64, 64), False), ((96, 64), False), ((128, 64), True), ((256, 256), False),
     ((512, 512), True), ((300, 120), False)],
)  # fmt: skip
def test_a_size_far_from_the_models_and_the_trainings_is_unusual(
    random_pipeline: Any, size: tuple[int, int], is_far: bool
) -> None:
    family = StableDiffusion(random_pipeline, "")
    trained = 64 if size[0] < 256 else 256
    found = list(unusual_size(size, trained, family))
    assert bool(found) is is_far
    assert all(f"{size[0]}x{size[1]} is far from {trained}x{trained}" in each for each in found)


def test_only_what_is_loaded_into_a_base_model_needs_it(random_model: Path, tmp_path: Path) -> None:
    """In a folder that was copied to where the base model cannot be read."""
    asked: dict[str, Any] = {"prompts": ["a mug"], "count": 1, "seed": 7, "steps": 1}
    for name, seed in (("whole", None), ("lora", 1)):
        folder = write_run(tmp_path / "runs", random_model, name, "uid", seed=seed)
        record = json.loads((folder / "run.json").read_text())
        record["job"]["spec"]["model"]["source"] = "/models/moved"
        job = DreamBoothJob.model_validate(record["job"])
        request = Generation(root=f"file://{folder}", folder=str(tmp_path / name), **asked)
        (tmp_path / "request.json").write_text(request.model_dump_json())
        arguments = job, Topology(), StopSignal(), Telemetry(job, Topology())
        if seed is None:
            generate(*arguments, tmp_path / "request.json")
            assert (tmp_path / name / "a-mug-7.png").exists()
        else:
            with pytest.raises(BadModelError, match=r"nothing at /models/moved.* with --base"):
                generate(*arguments, tmp_path / "request.json")
            shutil.rmtree(folder / "export")
            with pytest.raises(BadModelError, match="has no exported model yet"):
                generate(*arguments, tmp_path / "request.json")


def test_equal_names_get_a_number() -> None:
    requests = [ImageRequest("A mug!", 1), ImageRequest("a  mug", 1), ImageRequest("?", 1)]
    assert file_names(requests) == ["a-mug-1.png", "a-mug-1.1.png", "image-1.png"]
