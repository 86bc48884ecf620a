"""Everything that is wrong with a job is said before it takes a GPU, all of it at once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.training import Training
from dreambooth_storage import Storage, StorageSettings, TransferPolicy, Written
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.__main__ import main
from dreambooth_trainer.preflight.check import check_job
from dreambooth_trainer.preflight.objective import check_objective
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resume.former_defaults import KEPT
from dreambooth_trainer.resume.run_record import write_run_record
from tests.corpus.encoders import write_encoder

Job = dict[str, Any]
Run = Callable[[Job], tuple[int, str]]


@pytest.fixture
def job(tmp_path: Path, random_model: Path) -> Job:
    """A job without fault, all of it on this machine."""
    images = tmp_path / "images"
    images.mkdir()
    for level in range(3):
        Image.new("RGB", (64, 80), (level, 0, 0)).save(images / f"{level}.png")
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "test"},
        "spec": {
            "model": {"source": str(random_model)},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": f"file://{images}"}],
            "output": f"file://{tmp_path}/out",
            "training": {"resolution": 64, "steps": 1000},
        },
    }


def examine(job: Job, storage: Storage | None = None) -> PreflightReport:
    return check_job(DreamBoothJob.model_validate(job), storage or Storage(StorageSettings()))


def errors(job: Job) -> list[str]:
    return [str(error) for error in examine(job).errors]


def copy_of(model: Path, folder: Path, job: Job) -> Path:
    """A copy of the model that may be spoiled; the job uses it."""
    target = folder / "model"
    shutil.copytree(model, target)
    job["spec"]["model"]["source"] = str(target)
    return target


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_good_job_has_neither_errors_nor_warnings(job: Job, tmp_path: Path) -> None:
    report = examine(job)
    assert report.errors == []
    assert report.warnings == []
    assert report.exit_code == 0
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == [], "the probe was left behind"


def test_a_good_job_on_s3(
    job: Job, random_model: Path, tmp_path: Path, s3_endpoint: str, bucket: str
) -> None:
    storage = Storage(StorageSettings(s3_endpoint, "us-east-1", "path"))
    storage.upload_tree(random_model, f"s3://{bucket}/model")
    storage.upload_tree(tmp_path / "images", f"s3://{bucket}/mug")
    job["spec"]["model"]["source"] = f"s3://{bucket}/model"
    job["spec"]["subjects"][0]["images"] = f"s3://{bucket}/mug/"
    job["spec"]["output"] = f"s3://{bucket}/out"
    report = examine(job, storage)
    assert report.errors == []
    assert storage.list(f"s3://{bucket}/out") == []


def test_the_examples_model_and_subjects_pass(job: Job) -> None:
    examples = Path(__file__).parents[3] / "examples"
    job["spec"]["model"]["source"] = str(examples / "tiny-sd" / "model")
    job["spec"]["runtime"] = {"gpuMemory": "8Gi"}
    for subject in (examples / "subjects").iterdir():
        job["spec"]["subjects"][0]["images"] = f"file://{subject}"
        report = examine(job)
        assert (report.errors, report.warnings) == ([], [])


def test_everything_that_is_wrong_is_in_one_report(
    job: Job, encoders: dict[str, str], tmp_path: Path
) -> None:
    spec = job["spec"]
    spec["subjects"].append(
        {"identifier": "zwx", "classNoun": "mug", "images": f"file://{tmp_path}/nothing"}
    )
    spec["subjects"][0]["captions"] = f"file://{tmp_path}/no-captions"
    spec["prior"] = {"images": f"file://{tmp_path}/no-class-images"}
    spec["evaluation"] = {"encoders": {"image": "/dino", "text": encoders["text"]}}
    spec["model"]["source"] = f"{tmp_path}/no-model"
    report = examine(job)
    for field in (
        "spec.subjects[0].captions: ",
        "spec.subjects[1].images: ",
        "spec.prior.images: ",
        "spec.evaluation.encoders.image: there is nothing at",
        "spec.model.source: there is nothing at",
    ):
        assert any(str(error).startswith(field) for error in report.errors), field
    assert len(report.errors) == 5
    assert report.exit_code == 66
    assert "the job cannot be trained: 5 error(s)" in str(report)


def test_refused_images_are_a_warning_while_others_are_good(job: Job, tmp_path: Path) -> None:
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no image")
    report = examine(job)
    assert report.errors == []
    [warning] = report.warnings
    assert warning.startswith("spec.subjects[0].images: 1 file(s) are not trained on, 3 are:")
    assert "broken.jpg: not an image" in warning


def test_captions_beside_the_images_are_a_note(job: Job, tmp_path: Path, run: Run) -> None:
    for level in range(3):
        (tmp_path / "images" / f"{level}.txt").write_text("a sks mug" if level else "a mug")
    code, message = run(job)
    assert code == 0
    warning, note, _ = message.splitlines()
    assert warning.startswith("warning: spec.subjects[0].images: the identifier 'sks' is missing")
    assert note == ("note: spec.subjects[0].images: the captions beside 3 of 3 images are used")


def test_images_for_the_evaluation_are_checked_at_the_resolution(
    job: Job, encoders: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "held-out").mkdir()
    Image.new("RGB", (31, 64)).save(tmp_path / "held-out" / "small.png")
    job["spec"]["evaluation"] = {"encoders": encoders}
    job["spec"]["subjects"][0]["evaluationImages"] = f"file://{tmp_path}/held-out"
    [error] = errors(job)
    assert error.startswith("spec.subjects[0].evaluationImages: no image in")
    assert "small.png: 31 x 64 pixels are too small" in error


@pytest.mark.parametrize("count", [2, 3, 4])
def test_class_images_beyond_the_count_are_a_warning(job: Job, tmp_path: Path, count: int) -> None:
    (tmp_path / "class").mkdir()
    for level in range(3):
        Image.new("RGB", (64, 64), (level, 0, 0)).save(tmp_path / "class" / f"{level}.png")
    job["spec"]["prior"] = {"images": f"file://{tmp_path}/class", "count": count}
    warnings = [text for text in examine(job).warnings if "are trained on" in text]
    assert warnings == (
        [
            "spec.prior.count: 2 class images are trained on, and 3 are in"
            f" file://{tmp_path}/class; set it to 3 to use them all"
        ]
        if count == 2
        else []
    )


def test_captions_and_prompts_of_class_images_are_checked(job: Job, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "class" / "0.png")
    caption = tmp_path / "class" / "0.txt"
    caption.write_text("a mug " * 80)
    prompts = ["a photo of a {class}", "a {class} on grass " * 10]
    job["spec"]["prior"] = {"images": f"file://{tmp_path}/class", "count": 9, "prompts": prompts}
    warnings = examine(job).warnings
    for field in ("spec.prior.images", "spec.prior.prompts[1]"):
        assert any(w.startswith(f"{field}: ") and "tokens" in w for w in warnings), field
    caption.write_text("a photo of sks mug")
    [error] = errors(job)
    assert "the caption of 0.png contains the identifier 'sks'" in error


def test_a_run_of_an_earlier_version_keeps_the_loss_it_began_with(job: Job) -> None:
    """As the API server, which fills today's default into a job that was stored without one."""
    storage = Storage(StorageSettings())
    begun = examine(job).job
    assert begun is not None
    assert begun.spec.prior.target == "prediction"
    layout = output_layout(begun)
    write_run_record(
        storage, layout, begun, attempt=0, world_size=1, global_batch=1, hashes={}, seeds={}
    )
    assert examine(job).job == begun
    record = json.loads(storage.read(layout.run_record))
    # Both had the defaults of noise.
    record["job"]["spec"]["prior"] |= {"emptyPromptFraction": 0.0, "weight": 1.0}
    storage.write(layout.run_record, json.dumps(record).encode())
    report = examine(job)
    assert report.job is not None
    assert report.job.spec.prior.target == "prediction"
    assert report.job.spec.prior.empty_prompt_fraction == 0
    assert report.job.spec.prior.weight == 1
    assert KEPT not in report.warnings
    for name in ("target", "emptyPromptFraction"):
        del record["job"]["spec"]["prior"][name]
    storage.write(layout.run_record, json.dumps(record).encode())
    for attempt in (1, 2):  # the first one after the upgrade writes the record anew
        report = examine(job)
        assert report.job is not None
        assert report.job.spec.prior.target == "noise"
        assert report.job.spec.prior.empty_prompt_fraction == 0
        assert report.job.spec.prior.weight == 1
        assert KEPT in report.warnings
        write_run_record(
            storage, layout, report.job,
            attempt=attempt, world_size=1, global_batch=1, hashes={}, seeds={},
        )  # fmt: skip


def test_a_run_of_an_earlier_version_keeps_the_schedule_it_began_with(job: Job) -> None:
    begun = examine(job).job
    assert begun is not None
    assert begun.spec.training.schedule.name == "warmup-stable-decay"
    storage = Storage(StorageSettings())
    layout = output_layout(begun)
    write_run_record(
        storage, layout, begun, attempt=0, world_size=1, global_batch=1, hashes={}, seeds={}
    )
    record = json.loads(storage.read(layout.run_record))
    record["job"]["spec"]["training"]["schedule"] = {"name": "constant", "warmupSteps": 0}
    storage.write(layout.run_record, json.dumps(record).encode())
    report = examine(job)
    assert report.job is not None
    assert report.job.spec.training.schedule.name == "constant"
    job["spec"]["training"]["schedule"] = {"decayFraction": 0.5}
    report = examine(job)
    assert report.job is not None
    assert report.job.spec.training.schedule.name == "warmup-stable-decay"
    # Its job named this one: without the name, it is another job.
    record["job"]["spec"]["training"]["schedule"] = {"name": "cosine", "warmupSteps": 0}
    storage.write(layout.run_record, json.dumps(record).encode())
    del job["spec"]["training"]["schedule"]
    report = examine(job)
    assert report.job is not None
    assert report.job.spec.training.schedule.name == "warmup-stable-decay"


def test_only_bad_images_are_an_error(job: Job, tmp_path: Path) -> None:
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"no image")
    report = examine(job)
    assert report.exit_code == 65
    assert "spec.subjects[0].images: no image in" in str(report)


def test_a_read_only_output_is_an_error(job: Job, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder must be")
    report = examine(job)
    assert "spec.output: " in str(report.errors[0])
    assert report.exit_code != 0


class Heedless(Storage):
    """As a server that does not know If-None-Match: it replaces what was to stay."""

    def write(
        self, uri: str, data: bytes, *, only_if_absent: bool = False, field: str = ""
    ) -> Written:
        return super().write(uri, data, field=field)


def test_a_server_without_conditional_writes_is_an_error(
    job: Job, s3_endpoint: str, bucket: str
) -> None:
    job["spec"]["output"] = f"s3://{bucket}/out"
    storage = Heedless(StorageSettings(s3_endpoint, "us-east-1", "path"))
    report = examine(job, storage)
    (error,) = map(str, report.errors)
    assert error.startswith(f"spec.output: the server replaced s3://{bucket}/out/")
    assert error.endswith("use a server with conditional writes")
    assert report.exit_code == 67
    assert storage.list(f"s3://{bucket}/out") == [], "the probe was left behind"


def test_an_unknown_bucket_is_an_error_of_its_field(
    job: Job, s3_endpoint: str, bucket: str
) -> None:
    job["spec"]["output"] = "s3://no-such-bucket-here/out"
    report = examine(job, Storage(StorageSettings(s3_endpoint, "us-east-1", "path")))
    [error] = report.errors
    assert "spec.output" in str(error)
    assert "no-such-bucket-here" in str(error)
    assert report.exit_code == 67


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: (m / "model_index.json").unlink(), "has no model_index.json"),
        (lambda m: (m / "model_index.json").write_text("{"), "/model is not JSON"),
        (
            lambda m: edit(m / "model_index.json", _class_name="KandinskyPipeline"),
            "is a KandinskyPipeline, which cannot be trained; use a text-to-image model of",
        ),
        (
            lambda m: edit(m / "model_index.json", _class_name="StableDiffusionInpaintPipeline"),
            "Pipeline, for inpainting, which cannot be trained; use a text-to-image model of",
        ),
        (lambda m: shutil.rmtree(m / "unet"), "unet/config.json is missing"),
        (
            lambda m: (m / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
            "there are no weights in vae/",
        ),
        (lambda m: edit(m / "unet" / "config.json", in_channels=9), "inpainting and depth models"),
        (
            lambda m: edit(m / "text_encoder" / "config.json", hidden_size=32),
            "expects text of width 16 and its text encoder makes 32",
        ),
        (lambda m: shutil.rmtree(m / "tokenizer"), "tokenizer/ holds no vocabulary (vocab.json, "),
        (
            lambda m: [path.write_text("[") for path in (m / "tokenizer").iterdir()],
            "the tokenizer of",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_says_why(
    job: Job, random_model: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(copy_of(random_model, tmp_path, job))
    report = examine(job)
    [error] = report.errors
    assert str(error).startswith("spec.model.source: ")
    assert message in str(error)
    assert report.exit_code == 66


def test_all_that_is_wrong_with_a_model_is_said_at_once(
    job: Job, random_model: Path, tmp_path: Path
) -> None:
    model = copy_of(random_model, tmp_path, job)
    shutil.rmtree(model / "vae")
    (model / "text_encoder" / "config.json").write_text("[]")
    [error] = errors(job)
    assert "vae/config.json is missing" in error
    assert f"text_encoder/config.json of {model} holds no JSON object" in error
    assert "there are no weights in vae/" in error


def test_a_variant_that_is_not_there_is_an_error(job: Job) -> None:
    job["spec"]["model"]["variant"] = "fp16"
    [error] = errors(job)
    assert "no weights of the variant 'fp16'; remove spec.model.variant" in error


def test_a_single_file_must_be_there(job: Job, tmp_path: Path) -> None:
    job["spec"]["model"] = {"source": f"{tmp_path}/sd.safetensors", "layout": "single-file"}
    [error] = errors(job)
    assert error.startswith("spec.model.source: there is no file")
    (tmp_path / "sd.safetensors").write_bytes(b"weights")
    [error] = errors(job)
    assert error.endswith("sd.safetensors is damaged, or no safetensors file; copy it again")


def test_a_hub_that_cannot_be_reached_is_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    job["spec"]["model"]["source"] = "hf://owner/model"
    [error] = errors(job)
    assert "spec.model.source: hf://owner/model could not be fetched from the hub" in error


@pytest.mark.parametrize("resolution", [128, 512])
def test_a_resolution_far_from_the_models_own_is_a_warning(job: Job, resolution: int) -> None:
    for level in range(3):
        folder = Path(job["spec"]["subjects"][0]["images"].removeprefix("file://"))
        Image.new("RGB", (512, 512), (level, 0, 0)).save(folder / f"{level}.png")
    job["spec"]["training"]["resolution"] = resolution
    report = examine(job)
    assert report.errors == []
    assert report.warnings == [
        f"spec.training.resolution: {resolution} is far from 64, which the model was trained at;"
        " use 64"
    ]


def test_a_resolution_that_the_model_cannot_take_is_an_error(
    job: Job, random_model: Path, tmp_path: Path
) -> None:
    """A VAE of factor 16 cannot take 72 px."""
    model = copy_of(random_model, tmp_path, job)
    edit(model / "vae" / "config.json", block_out_channels=[8, 16, 16, 16, 16])
    job["spec"]["training"]["resolution"] = 72
    [error] = errors(job)
    assert error == (
        "spec.training.resolution: Stable Diffusion 1.x and 2.x cannot take 72; use a multiple of"
        " 32, such as 64"
    )


def test_a_job_without_a_resolution_has_that_of_its_model(job: Job) -> None:
    del job["spec"]["training"]["resolution"]
    report = examine(job)
    assert report.errors == report.warnings == []
    assert report.job
    assert report.job.spec.training.resolution == 64


def test_a_model_that_cannot_be_read_makes_no_image_too_small(job: Job) -> None:
    del job["spec"]["training"]["resolution"]
    job["spec"]["model"]["source"] = "/nowhere"
    [error] = errors(job)
    assert error.startswith("spec.model.source: ")


def test_a_sampler_that_the_model_does_not_take_is_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = replace(DEFAULTS, resolution=64, sampler="euler", samplers=("euler",))
    monkeypatch.setattr(ModelConfig, "defaults", taken)
    job["spec"]["samples"] = {"sampler": "ddim"}
    [error] = errors(job)
    assert error.startswith("spec.samples.sampler: the model cannot be sampled with ddim;")


def test_images_that_are_not_cropped_are_listed_by_shape(job: Job, tmp_path: Path) -> None:
    Image.new("RGB", (400, 80), "red").save(tmp_path / "images/panorama.png")
    job["spec"]["training"]["crop"] = "none"
    report = examine(job)
    field = "spec.subjects[0].images"
    assert report.notes == [
        f"{field}: trained on without cropping (crop: none): 3 of 56 x 72, 1 of 128 x 32 pixels"
    ]
    assert report.warnings == [
        f"{field}: panorama.png is longer than 4 to 1, and is cropped to that; cut out the part"
        " that shows the subject"
    ]


def test_prompts_without_identifier_and_too_long_ones_are_warnings(job: Job) -> None:
    job["spec"]["samples"] = {"prompts": ["a photo of sks mug", "a mug", "sks " * 30]}
    report = examine(job)
    assert report.errors == []
    assert len(report.warnings) == 2
    assert any(w.startswith("spec.samples.prompts[1]: ") for w in report.warnings)
    [long] = [w for w in report.warnings if w.startswith("spec.samples.prompts[2]: ")]
    assert "has 92 tokens; the model reads 77" in long


def test_long_captions_are_a_warning(job: Job, tmp_path: Path) -> None:
    for level in range(3):
        (tmp_path / "images" / f"{level}.txt").write_text("sks " * (30 + level))
    job["spec"]["subjects"][0]["captions"] = job["spec"]["subjects"][0]["images"]
    [warning] = examine(job).warnings
    assert warning.startswith("spec.subjects[0].captions: ")
    assert "has 98 tokens, and 2 other(s) too many; the model reads 77, so shorten them" in warning


def test_captions_and_masks_that_cannot_be_used_are_reported_with_the_files_names(
    job: Job, tmp_path: Path
) -> None:
    spoiled, fair = tmp_path / "images", tmp_path / "others"
    shutil.copytree(spoiled, fair)
    files = {
        "0.mask.png": "is 64 x 160 pixels, which are other proportions than those of 0.png: save it"
        " in the size of the upright image",
        "1.mask.png": "marks nothing: the subject must be white (or opaque), and all else black",
        "0.txt": "is empty: describe the image",
        "1.txt": "is not UTF-8 text: save it as UTF-8",
        "2.txt": "is not UTF-8 text: save it as UTF-8",
    }
    Image.new("L", (64, 160), 255).save(spoiled / "0.mask.png")
    Image.new("L", (64, 80), 0).save(spoiled / "1.mask.png")
    (spoiled / "0.txt").write_text(" \n")
    (spoiled / "1.txt").write_bytes("sks grün".encode("latin-1"))
    (spoiled / "2.txt").write_bytes("sks".encode("utf-16"))
    (fair / "0.txt").write_text("a mug on a table")
    (fair / "1.txt").write_text("a photo of xyz dog")
    (fair / "2.txt").write_text("a photo of xyz dog")
    first = job["spec"]["subjects"][0]
    first["mask"] = "file"
    second = {"identifier": "xyz", "classNoun": "dog", "images": f"file://{fair}"}
    job["spec"]["subjects"].append(second)
    report = examine(job)
    captions, masks = f"3 caption(s) in file://{spoiled}", f"2 mask(s) in file://{spoiled}"
    assert str(report.errors[0]).splitlines() == [
        f"spec.subjects[0].images: {captions} must be corrected:",
        *(f"  {name} {files[name]}" for name in ("0.txt", "1.txt", "2.txt")),
        f"spec.subjects[0].mask: {masks} must be corrected:",
        *(f"  {name} {files[name]}" for name in ("0.mask.png", "1.mask.png")),
    ]
    assert len(report.errors) == 1
    assert report.warnings == [
        "spec.subjects[1].images: the identifier 'xyz' is missing in the captions of 0.png; add it,"
        " or the model will not learn it from these images"
    ]


def test_adapter_targets_that_the_model_lacks_are_an_error(job: Job) -> None:
    job["spec"]["training"]["lora"] = {"targets": ["to_q", "to_qq", "q"]}
    [error] = errors(job)
    assert error.startswith(
        "spec.training.lora.targets: no module of the model's denoiser is named"
    )
    assert "to_qq, q;" in error


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        (
            {"rankPattern": {"to_q": 8, "to_qq": 4}},
            "rankPattern: no module with an adapter is named to_qq; did you mean to_q",
        ),
        (
            {"alphaPattern": {"atn1.to_q": 4}},
            "alphaPattern: no module with an adapter is named atn1.to_q; did you mean attn1.to_q",
        ),
        (
            {"rankPattern": {"conv1": 4}},
            "rankPattern: no module with an adapter is named conv1; did you mean ",
        ),
        (
            {"type": "lokr", "decomposeFactor": 7},
            "decomposeFactor: 7 divides no size of the adapted weights (",
        ),
    ],
)
def test_adapters_that_the_model_cannot_have_are_an_error(
    job: Job, lora: dict[str, Any], expected: str
) -> None:
    job["spec"]["training"]["lora"] = lora
    [error] = errors(job)
    assert error.startswith(f"spec.training.lora.{expected}")


def test_patterns_may_name_any_module_with_an_adapter(job: Job) -> None:
    patterns = {"conv1": 4, "down_blocks.*.to_q": 8, "*.resnets.0.*": 2}
    job["spec"]["training"]["lora"] = {"targetPreset": "convolutions", "rankPattern": patterns}
    assert errors(job) == []


def test_a_job_that_cannot_fit_the_gpu_is_an_error(job: Job) -> None:
    job["spec"]["runtime"] = {"gpuMemory": "16Mi"}
    # Little can be changed about it, and what is suggested is measured.
    job["spec"]["training"] |= {
        "globalBatch": 64, "gradientCheckpointing": True, "lora": {"type": "dora"},
    }  # fmt: skip
    [error] = errors(job)
    assert error.startswith("spec.runtime.gpuMemory: ")
    assert "a training step needs " in error
    job["spec"]["runtime"] = {"gpuMemory": "8Gi"}
    assert errors(job) == []
    job["spec"]["runtime"] = {"gpuMemory": "1Mi", "gpusPerNode": 0}
    assert errors(job) == []


@pytest.mark.usefixtures("s3_env")
def test_storage_that_does_not_answer_is_asked_once(job: Job) -> None:
    spec = job["spec"]
    spec["output"] = "s3://bucket/out"
    spec["subjects"][0]["images"] = "s3://bucket/mug"
    nowhere = StorageSettings("http://127.0.0.1:9", "us-east-1", "path")
    report = examine(job, Storage(nowhere, policy=TransferPolicy(attempts=1)))
    [error] = report.errors
    assert "spec.output" in str(error)
    assert "were not checked" in report.warnings[-1]
    assert report.exit_code == 1, "a server that is down may come back"


def test_an_overloaded_server_is_worth_a_retry(
    job: Job, serve: Callable[[type[BaseHTTPRequestHandler]], str], s3_env: dict[str, str]
) -> None:
    class Overloaded(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    job["spec"]["output"] = "s3://bucket/out"
    settings = StorageSettings(serve(Overloaded), "us-east-1", "path")
    report = examine(job, Storage(settings, policy=TransferPolicy(attempts=1)))
    assert report.exit_code == 1
    report.errors.append(BadConfigError("spec.training: this will not pass by itself"))
    assert report.exit_code == 64


def test_missing_credentials_are_an_error_that_names_the_secrets_field(
    job: Job, s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    job["spec"]["output"] = f"s3://{bucket}/out"
    report = examine(job, Storage(StorageSettings(s3_endpoint, "us-east-1", "path")))
    [error] = report.errors
    assert str(error).startswith("spec.output: ")
    assert "none were found" in str(error)
    assert "spec.storage.credentials.secretRef" in str(error)
    assert report.exit_code == 67


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny encoders of images and of text, as a job names them."""
    folder = tmp_path_factory.mktemp("encoders")
    named = {"image": "DINO", "text": "CLIP"}
    return {role: str(write_encoder(name, folder / role)) for role, name in named.items()}


def test_good_encoders_pass(job: Job, encoders: dict[str, str]) -> None:
    job["spec"]["evaluation"] = {"encoders": encoders}
    job["spec"]["runtime"] = {"gpuMemory": "8Gi"}
    assert errors(job) == []


def test_encoders_that_cannot_score_are_refused_by_their_fields(
    job: Job, encoders: dict[str, str]
) -> None:
    job["spec"]["evaluation"] = {"encoders": {"image": "/none", "text": encoders["image"]}}
    report = examine(job)
    first, second = map(str, report.errors)
    assert first.startswith("spec.evaluation.encoders.image: there is nothing at /none")
    assert second.startswith("spec.evaluation.encoders.text: ")
    assert "it is a vit model" in second
    assert report.exit_code == 66


def write(job: Job, folder: Path) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return str(path)


def test_the_command_prints_the_report_and_exits_with_its_code(job: Job, tmp_path: Path) -> None:
    job["spec"]["subjects"][0]["images"] = f"file://{tmp_path}/nothing"
    command = [sys.executable, "-m", "dreambooth_trainer.preflight", "--config"]
    log = tmp_path / "termination.log"
    ended = subprocess.run(
        [*command, write(job, tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "DREAMBOOTH_TERMINATION_LOG": str(log)},
    )  # fmt: skip
    assert ended.returncode == 65
    assert "error: spec.subjects[0].images: " in ended.stdout
    summary = "the job cannot be trained: 1 error(s), 0 warning(s)"
    assert ended.stdout.endswith(f"{summary}\n")
    first, last = Termination.decode(log.read_text()).message.splitlines()
    assert first.startswith("spec.subjects[0].images: ")
    assert last == summary


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process; returns its exit code and the termination message."""
    log = tmp_path / "termination.log"

    def run(job: Job) -> tuple[int, str]:
        log.unlink(missing_ok=True)  # the first message of a pod is kept
        monkeypatch.setattr(sys, "argv", ["preflight", "--config", write(job, tmp_path)])
        return main(), Termination.decode(log.read_text()).message

    monkeypatch.setenv("DREAMBOOTH_TERMINATION_LOG", str(log))
    return run


def test_a_good_jobs_report_is_the_termination_message_too(job: Job, run: Run) -> None:
    job["spec"]["samples"] = {"prompts": ["a mug"]}
    code, message = run(job)
    assert code == 0
    warning, summary = message.splitlines()
    assert warning.startswith("warning: spec.samples.prompts: ")
    assert summary == "the job can be trained: 0 error(s), 1 warning(s)"


def test_the_command_refuses_a_bad_job_file_with_a_line_for_each_field(
    job: Job, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    job["spec"]["training"] |= {"stepps": 5, "globalBatch": 0}
    code, message = run(job)
    assert code == 64
    assert "error: spec.training.globalBatch" in capsys.readouterr().out
    fields = [line.partition(":")[0] for line in message.splitlines()[:-1]]
    assert sorted(fields) == ["spec.training.globalBatch", "spec.training.stepps"]


def test_rules_that_came_later_do_not_end_a_job_that_has_begun(
    job: Job, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job["spec"]["training"]["captionDropout"] = 1
    job["spec"]["subjects"][0]["images"] = f"file://{tmp_path}/nothing"
    code, message = run(job)
    assert code == 64
    assert message.startswith("spec.training.captionDropout: ")
    monkeypatch.setenv("DREAMBOOTH_ATTEMPT", "1")
    code, message = run(job)
    assert code == 65
    assert message.startswith("spec.subjects[0].images: ")


def test_a_long_message_is_cut_at_a_line_and_keeps_the_errors() -> None:
    errors = [
        BadConfigError(f"spec.subjects[{n}].images: {'ä' * 100}:\n  a\n  b") for n in range(30)
    ]
    report = PreflightReport(list[Exception](errors), warnings=["odd"] * 30)
    message = report.message()
    assert Termination.decode(Termination(message=message).encode().decode()).message == message
    *shown, more, summary = message.splitlines()
    assert all(
        line == f"spec.subjects[{n}].images: {'ä' * 100}: a; b" for n, line in enumerate(shown)
    )
    assert more == f"... and {60 - len(shown)} more"
    assert summary == "the job cannot be trained: 30 error(s), 30 warning(s)"
    assert len(shown) > 10


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"timestepSampling": {"density": "uniform"}},
            "spec.training.timestepSampling: is for models of flow matching, and this one"
            " (Stable Diffusion 1.x and 2.x) is of DDPM; remove it",
        ),
        (
            {"lossWeighting": "cosmap"},
            "spec.training.lossWeighting: cosmap is for models of flow matching, and this one"
            " (Stable Diffusion 1.x and 2.x) is of DDPM; remove it, or set minSnrGamma instead",
        ),
    ],
)
def test_settings_of_flow_matching_are_refused_for_a_ddpm_model(
    job: Job, training: dict[str, Any], message: str
) -> None:
    job["spec"]["training"] |= training
    report = examine(job)
    assert [str(error) for error in report.errors] == [message]
    assert report.exit_code == ExitCode.BAD_CONFIG


def test_a_layer_of_clip_that_the_model_lacks_is_an_error(job: Job) -> None:
    job["spec"]["model"]["clipSkip"] = 2
    (error,) = map(str, examine(job).errors)
    assert error == (
        "spec.model.clipSkip: 2 is more than this model (Stable Diffusion 1.x and 2.x) allows, 1;"
        " remove it"
    )


def test_a_lower_resolution_that_is_not_lower_than_the_models_is_an_error(job: Job) -> None:
    job["spec"]["training"].pop("resolution", None)
    job["spec"]["training"]["lowerResolutions"] = [64]
    (error,) = map(str, examine(job).errors)
    assert error == (
        "spec.training.lowerResolutions: 64 is not below the model's resolution, 64; remove it, or"
        " set training.resolution"
    )


def test_an_optimizer_that_pytorch_lacks_is_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job["spec"]["training"]["optimizer"] = {"name": "muon"}
    assert examine(job).errors == []
    monkeypatch.delattr("torch.optim.Muon")
    (error,) = map(str, examine(job).errors)
    assert error.startswith("spec.training.optimizer.name: muon needs PyTorch 2.9 or newer, and")


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"minSnrGamma": 5.0}, "spec.training.minSnrGamma: "),
        ({"noiseOffset": 0.1}, "spec.training.noiseOffset: "),
    ],
)
def test_settings_of_ddpm_are_refused_for_a_model_of_flow_matching(
    training: dict[str, Any], field: str
) -> None:
    found = list(check_objective(Training.model_validate(training), "flow", "FLUX.2"))
    assert len(found) == 1
    assert found[0].startswith(field)
    assert "FLUX.2" in found[0]
    assert not list(check_objective(Training.model_validate(training), "ddpm", "SDXL"))


def test_each_kind_of_model_takes_its_own_settings() -> None:
    flow = {"timestepSampling": {"shift": 3}, "lossWeighting": "sigma-sqrt"}
    assert not list(check_objective(Training.model_validate(flow), "flow", "FLUX.2"))
    assert not list(check_objective(Training(), "flow", "FLUX.2"))
    assert not list(check_objective(Training(), "ddpm", "SDXL"))
