"""What FLUX.2 and Krea 2 do that other families do not."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.export.lora import KOHYA_FILE, export_lora
from dreambooth_trainer.models.adapters.exported import find_adapters
from dreambooth_trainer.preflight.check import check_job
from tests.trainer.conftest import MakeJob
from tests.trainer.export.test_export import ABOUT
from tests.trainer.families.conftest import build, load, load_plain
from tests.trainer.families.test_lora import adapted
from tests.trainer.families.test_variants import change, check

EVERYTHING_IN_BLOCKS = [
    "attn.to_q", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0", "attn.to_add_out",
    "ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out",
    "attn.to_qkv_mlp_proj",
]  # fmt: skip


@pytest.fixture(params=["flux2_klein", "krea2"])
def distilled(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The distilled model of a family."""
    folder = shutil.copytree(build(request.param), tmp_path / "distilled")
    change(folder / "model_index.json", is_distilled=True)
    return folder


def test_a_distilled_model_is_trained_with_a_warning(job: MakeJob, distilled: Path) -> None:
    errors, warnings = check(job(model={"source": str(distilled)}))
    assert not errors
    assert any("was distilled to" in each for each in warnings)


def test_a_distilled_model_takes_no_negative_prompt(job: MakeJob, distilled: Path) -> None:
    config = job(model={"source": str(distilled)}, samples={"negativePrompt": "rain"})
    assert any("samples.negativePrompt" in each for each in check(config)[0])


def test_a_distilled_klein_takes_no_guidance(job: MakeJob, tmp_path: Path) -> None:
    folder = shutil.copytree(build("flux2_klein"), tmp_path / "model")
    config = job(model={"source": str(folder)}, samples={"guidanceScale": 4})
    assert not check(config)[0]
    change(folder / "model_index.json", is_distilled=True)
    assert any("spec.samples.guidanceScale" in each for each in check(config)[0])


def test_noise_levels_are_shifted_as_in_the_base_models_training(job: MakeJob) -> None:
    """Exp(1.15) at 1024 pixels, by the scheduler's configuration; sampling has a larger shift."""
    config = job(model={"source": str(build("flux2_klein"))}, training={"resolution": 1024})
    report = check_job(DreamBoothJob.model_validate(config), Storage(StorageSettings()))
    assert report.job
    sampling = report.job.spec.training.timestep_sampling
    assert sampling
    assert (sampling.density, sampling.mean, sampling.std) == ("logit-normal", 0, 1)
    assert sampling.shift == pytest.approx(math.exp(1.15))


def test_min_snr_is_refused_by_name(job: MakeJob) -> None:
    config = job(model={"source": str(build("flux2_klein"))}, training={"minSnrGamma": 5})
    [error] = check(config)[0]
    assert error.startswith("spec.training.minSnrGamma: is for models of DDPM")


@pytest.mark.parametrize("name", ["Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"])
def test_other_pipelines_of_klein_are_refused(job: MakeJob, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(build("flux2_klein"), tmp_path / "model")
    change(folder / "model_index.json", _class_name=name)
    [error] = check(job(model={"source": str(folder)}))[0]
    assert f"is a {name}" in error
    assert (
        "use a text-to-image model of FLUX.2 klein, such as hf://black-forest-labs/FLUX.2-klein-base"
        in error
    )


def test_layers_of_text_that_the_transformer_does_not_expect_are_refused(
    job: MakeJob, tmp_path: Path
) -> None:
    folder = shutil.copytree(build("krea2"), tmp_path / "model")
    change(folder / "model_index.json", text_encoder_select_layers=[1, 2])
    [error] = check(job(model={"source": str(folder)}))[0]
    assert "text_encoder_select_layers must be 3 layers" in error


def test_a_flux2_lora_has_the_names_of_the_original_code(job: MakeJob, tmp_path: Path) -> None:
    family = load(build("flux2_klein"))
    adapted(job, family, EVERYTHING_IN_BLOCKS)
    export_lora(family, tmp_path, ABOUT)
    plain = load_plain(build("flux2_klein"))
    plain.load_lora_weights(tmp_path, weight_name=KOHYA_FILE)
    changes = {
        each.module: each.scale * each.up @ each.down
        for each in find_adapters("transformer", family.denoiser, "default")
    }
    found = {
        each.module: each.scale * each.up @ each.down
        for each in find_adapters("transformer", plain.transformer, "default_0")
    }
    # Keys and values of the image's tokens have none, which the file says with zeros.
    for module in found.keys() - changes.keys():
        assert module.endswith(("attn.to_k", "attn.to_v", "attn.add_q_proj"))
        assert not found[module].any()
    assert changes.keys() <= found.keys()
    for module, change_of_weight in changes.items():
        torch.testing.assert_close(found[module], change_of_weight)


def test_the_outputs_of_single_stream_blocks_are_adapted(job: MakeJob) -> None:
    family = load(build("flux2_klein"))
    adapted(job, family)
    found = {each.module for each in find_adapters("transformer", family.denoiser, "default")}
    single, double = (
        {each.rpartition("attn.")[2] for each in found if each.startswith(f"{kind}.0.")}
        for kind in ("single_transformer_blocks", "transformer_blocks")
    )
    assert single == {"to_qkv_mlp_proj", "to_out"}
    assert double == {"to_q", "to_k", "to_v", "to_out.0"}


def test_a_flux2_lora_of_other_modules_has_diffusers_names_alone(
    job: MakeJob, tmp_path: Path
) -> None:
    family = load(build("flux2_klein"))
    adapted(job, family, ["norm_out.linear"])
    export_lora(family, tmp_path, ABOUT)
    assert not (tmp_path / KOHYA_FILE).exists()


def test_every_module_of_krea_2_has_a_name_in_the_original_code(
    job: MakeJob, tmp_path: Path
) -> None:
    family = load(build("krea2"))
    linear = {name for name, part in family.denoiser.named_modules() if isinstance(part, nn.Linear)}
    # Their names in one block are those in all.
    targets = {re.sub(r".*_blocks\.\d+\.", "", name) for name in linear}
    adapted(job, family, sorted(targets))
    export_lora(family, tmp_path, ABOUT)
    plain = load_plain(build("krea2"))
    plain.load_lora_weights(tmp_path, weight_name=KOHYA_FILE)
    found = find_adapters("transformer", plain.transformer, "default_0")
    assert {each.module for each in found} == linear
