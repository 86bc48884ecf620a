"""What single families do that others do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.pipeline import export_pipeline
from dreambooth_trainer.preflight.check import check_job
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import build, call_plain, load, load_plain

WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}


def change(file: Path, **values: Any) -> None:
    """Set values in a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def sd3_without_t5(tmp_path: Path) -> Path:
    """Stable Diffusion 3 as saved with `text_encoder_3=None`."""
    folder = shutil.copytree(build("sd3"), tmp_path / "sd3")
    nothing = [None, None]
    change(folder / "model_index.json", text_encoder_3=nothing, tokenizer_3=nothing)
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    return folder


def test_stable_diffusion_3_is_trained_without_t5(sd3_without_t5: Path, tmp_path: Path) -> None:
    family = load(sd3_without_t5)
    plain = DiffusionPipeline.from_pretrained(sd3_without_t5, **WITHOUT_T5)
    states, _, pooled, _ = plain.encode_prompt(["a red mug"], None, None)
    found = family.encode_prompts(["a red mug"])
    torch.testing.assert_close(found, {"hidden_states": states, "pooled": pooled})
    assert family.max_tokens == 77
    export_pipeline(family, tmp_path / "export", ABOUT)
    DiffusionPipeline.from_pretrained(tmp_path / "export", **WITHOUT_T5)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "text_encoder_3=None, tokenizer_3=None" in card


def test_sana_knows_the_instruction_from_prompts_alone() -> None:
    family, plain = load(build("sana")), load_plain(build("sana"))
    instruction = call_instruction(plain)
    states, mask, negative, negative_mask = plain.encode_prompt(
        ["A red Mug "], negative_prompt="zebra", complex_human_instruction=instruction
    )
    with torch.no_grad():
        found = family.encode_tokens(family.tokenize(["A red Mug "]))
        against = family.encode_tokens(family.tokenize_negative(["zebra"]))
    torch.testing.assert_close(found["hidden_states"], states)
    assert found["mask"].equal(mask)
    seen = negative_mask.bool()
    torch.testing.assert_close(against["hidden_states"][seen], negative[seen])
    assert against["mask"].equal(negative_mask)


def test_an_empty_caption_of_sana_is_what_guidance_steers_away_from() -> None:
    family = load(build("sana"))
    torch.testing.assert_close(family.encode_prompts([""]), family.encode_negative([""]))


def call_instruction(plain: Any) -> list[str]:
    """The instruction that the pipeline's call hands to its encoder."""
    seen, encode = [], plain.encode_prompt

    def record(*arguments: Any, **options: Any) -> Any:
        seen.append(options["complex_human_instruction"])
        return encode(*arguments, **options)

    plain.encode_prompt = record
    call_plain(plain, ["mug"], num_inference_steps=1, output_type="latent")
    plain.encode_prompt = encode
    return seen[0]


def check(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Errors and warnings of preflight."""
    report = check_job(DreamBoothJob.model_validate(config), Storage(StorageSettings()))
    return [str(each) for each in report.errors], report.warnings


@pytest.mark.parametrize(
    ("name", "file", "settings", "note"),
    [
        ("flux", "transformer/config.json", {"guidance_embeds": False}, "FLUX.1 schnell was dist"),
        ("flux2_klein", "model_index.json", {"is_distilled": True}, "this FLUX.2 klein was distil"),
        ("krea2", "model_index.json", {"is_distilled": True}, "Krea 2 Turbo was distilled to 8"),
        ("z_image", "scheduler/scheduler_config.json", {"shift": 3.0}, "Z-Image-Turbo was distill"),
        ("sd3", "model_index.json", {}, "its name says that the model was distilled to few steps"),
    ],
)
def test_a_distilled_model_is_trained_with_a_warning(
    job: MakeJob, tmp_path: Path, name: str, file: str, settings: dict[str, Any], note: str
) -> None:
    """Those of sd3.5-large-turbo show it by its name alone."""
    folder = Path(shutil.copytree(build(name), tmp_path / "some-turbo"))
    change(folder / file, **settings)
    errors, warnings = check(job(model={"source": str(folder)}))
    assert not errors
    [warning] = [each for each in warnings if "distilled" in each]
    assert warning.startswith(f"spec.model.source: {note}")
    assert "training undoes" in warning
    _, warnings = check(job(model={"source": str(build(name))}))
    assert not [each for each in warnings if "distilled" in each]


@pytest.mark.parametrize(
    ("name", "title"), [("z_image", "Z-Image"), ("sd3", "Stable Diffusion 3 and 3.5")]
)
def test_text_encoders_that_cannot_be_trained_are_refused(
    job: MakeJob, name: str, title: str
) -> None:
    config = job(model={"source": str(build(name))}, training={"textEncoder": {"method": "lora"}})
    [error] = check(config)[0]
    assert error.startswith(
        f"spec.training.textEncoder.method: the text encoders of {title} cannot"
    )


def test_language_models_are_not_run_in_fp16(job: MakeJob) -> None:
    config = job(
        model={"source": str(build("z_image"))},
        training={"precision": "fp16"},
        runtime={"gpusPerNode": 1},
    )
    [error] = check(config)[0]
    assert error.startswith("spec.training.precision: the text encoders of Z-Image overflow")


def test_sana_takes_either_kind_of_flow_scheduler(tmp_path: Path) -> None:
    folder = shutil.copytree(build("sana"), tmp_path / "sana")
    assert load(folder).flow_shift(1024) == 3.0
    assert load(folder).defaults.samplers == ("dpm-solver++",)
    kind = "FlowMatchEulerDiscreteScheduler"
    change(folder / "model_index.json", scheduler=["diffusers", kind])
    settings = json.dumps({"_class_name": kind, "shift": 2.0})
    (folder / "scheduler" / "scheduler_config.json").write_text(settings)
    assert load(folder).flow_shift(1024) == 2.0
    assert load(folder).defaults.samplers == ("euler",)


def test_a_size_that_the_family_cannot_take_is_refused_without_contradicting_warnings(
    job: MakeJob,
) -> None:
    errors, warnings = check(job(model={"source": str(build("flux"))}, training={"resolution": 72}))
    assert errors == [
        "spec.training.resolution: FLUX.1 cannot take 72; use a multiple of 16, such as 64"
    ]
    assert not [each for each in warnings if "multiple" in each]


@pytest.mark.parametrize(("name", "scale"), [("z_image", 0.0), ("sdxl", 1.0)])
def test_a_negative_prompt_without_guidance_is_a_warning(
    job: MakeJob, name: str, scale: float
) -> None:
    settings = {"negativePrompt": "blurry", "guidanceScale": scale}
    source = {"source": str(build(name))}
    errors, warnings = check(job(model=source, samples=settings))
    assert not errors
    [warning] = [each for each in warnings if "negativePrompt" in each]
    assert f"has no effect without guidance, at a guidanceScale of {scale:g}; use one" in warning


SCHNELL = ("flux", "transformer/config.json", {"guidance_embeds": False})
TURBO = ("z_image", "scheduler/scheduler_config.json", {"shift": 3.0})


def test_a_guidance_scale_that_schnell_ignores_is_refused(job: MakeJob, tmp_path: Path) -> None:
    name, file, settings = SCHNELL
    folder = Path(shutil.copytree(build(name), tmp_path / "model"))
    change(folder / file, **settings)
    errors, _ = check(job(model={"source": str(folder)}, samples={"guidanceScale": 3.5}))
    assert errors == [
        "spec.samples.guidanceScale: the model takes at most 1 (got 3.5); use 1, or remove it"
    ]


@pytest.mark.parametrize("section", ["samples", "prior"])
def test_guidance_of_a_model_that_was_distilled_without_it_is_a_warning(
    job: MakeJob, tmp_path: Path, section: str
) -> None:
    name, file, settings = TURBO
    folder = Path(shutil.copytree(build(name), tmp_path / "model"))
    change(folder / file, **settings)
    errors, warnings = check(job(model={"source": str(folder)}, **{section: {"guidanceScale": 4}}))
    assert not errors
    assert [each for each in warnings if "guidance" in each.split(":")[0].lower()] == [
        f"spec.{section}.guidanceScale: the model was distilled to be sampled without guidance (got"
        " 4), with which its images are worse; remove it"
    ]
    _, warnings = check(job(model={"source": str(folder)}))
    assert not [each for each in warnings if "guidanceScale" in each]
