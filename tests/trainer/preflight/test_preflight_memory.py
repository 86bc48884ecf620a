"""The memory estimate counts what is there: checked on Stable Diffusion 1.5's own shapes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil

from dreambooth_trainer.evaluation.encoder_config import ARCHITECTURES as ENCODERS
from dreambooth_trainer.evaluation.encoder_config import EncoderConfig
from dreambooth_trainer.evaluation.preprocessing import read_preprocessing
from dreambooth_trainer.models.model_config import ModelConfig, read_shipped_config
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from dreambooth_trainer.preflight.memory.stages import (
    GIB,
    OVERHEAD,
    checkpoint_bytes,
    count_parameters,
    measure_stages,
)
from dreambooth_trainer.preflight.resources import check_grace_period, check_memory, choose_strategy
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.out_of_memory import GpuStage
from dreambooth_trainer.resolved_job import ResolvedJob
from tests.trainer.resolved import resolve, resolve_training

CLIP = EncoderConfig(
    ENCODERS["clip"],
    CLIPConfig(),
    read_preprocessing(json.loads(CLIPImageProcessorPil().to_json_string())),
)
SIZES = Path(__file__).parents[3] / "docs" / "sizes.md"


@pytest.fixture(scope="module")
def sd15() -> ModelConfig:
    """Stable Diffusion 1.5 without weights."""
    return read_shipped_config(ARCHITECTURES["sd1"])


def measure(
    config: ModelConfig,
    images: int = 2,
    ranks: int = 1,
    encoders: Sequence[EncoderConfig] = (),
    strategy: str = "ddp",
    **training: Any,
) -> dict[GpuStage, float]:
    """GiB by stage."""
    job = job_with(training=training, runtime={"strategy": strategy})
    stages = measure_stages(job, config, local_batch=images, ranks=ranks, encoders=encoders)
    return {stage: size / GIB for stage, size in stages.items()}


def test_the_skeleton_has_the_published_sizes_and_no_memory(sd15: ModelConfig) -> None:
    sizes = {name: count_parameters(part) / 1e6 for name, part in sd15.skeleton.parts.items()}
    assert sizes == pytest.approx({"unet": 859.5, "vae": 83.7, "text_encoder": 123.1}, abs=0.1)
    assert all(weight.is_meta for weight in sd15.skeleton.denoiser.parameters())
    assert isinstance(sd15.skeleton.denoiser, nn.Module)
    assert sd15.skeleton.latent_shape(512) == (4, 64, 64)
    assert (sd15.skeleton.resolution_step, sd15.skeleton.native_resolution) == (64, 512)


def test_every_stage_is_measured(sd15: ModelConfig) -> None:
    stages = measure(sd15, encoders=[CLIP], resolution=1024)
    assert set(stages) == {
        "loading the model", "encoding text", "generating class images", "encoding latents",
        "a training step", "sampling", "scoring", "exporting",
    }  # fmt: skip
    loaded = 83.7e6 * 4 + (859.5e6 + 123.1e6) * 2  # the VAE is fp32
    assert stages["loading the model"] == pytest.approx(loaded / GIB, rel=1e-3)
    # One image at a time in fp32, where eight would take 20 GiB. The text encoder has left.
    assert 2 < stages["encoding latents"] - (loaded - 123.1e6 * 2) / GIB < 4


def test_gradients_of_several_ranks_are_counted_once(sd15: ModelConfig) -> None:
    """DDP's gradients are views of its buckets: they are there during the forward pass too."""
    one = measure(sd15, method="full", learning_rate=1e-6)["a training step"]
    many = measure(sd15, ranks=8, method="full", learning_rate=1e-6)["a training step"]
    gradients = 859.5e6 * 4 / GIB
    assert 4 * gradients < one < many < one + gradients + 0.1


def test_what_a_schedule_free_step_takes_besides_its_state_is_counted(sd15: ModelConfig) -> None:
    adamw, schedule_free = (
        measure(
            sd15, ranks=2, method="full", gradient_checkpointing=True, optimizer={"name": name}
        )["a training step"]
        for name in ("adamw", "schedule-free-adamw")
    )
    # Roots of the second moments, when activations are gone.
    assert schedule_free > adamw + 1


def test_gradient_checkpointing_and_half_precision_take_less(sd15: ModelConfig) -> None:
    plain = measure(sd15, images=8)["a training step"]
    assert measure(sd15, images=8, gradient_checkpointing=True)["a training step"] < plain - 4
    assert measure(sd15, images=8, precision="fp32")["a training step"] > plain + 4


def test_a_job_that_cannot_fit_is_refused_with_its_stages_and_fields(sd15: ModelConfig) -> None:
    job = job_with(runtime={"gpuMemory": "12Gi"}, training={"method": "full", "learningRate": 1e-6})
    with pytest.raises(BadConfigError) as refused:
        check_memory(job, sd15, [])
    message = str(refused.value)
    assert message.startswith("spec.runtime.gpuMemory: sampling needs 1")
    assert "a training step 1" in message
    assert "it fits with spec.training.method: lora (5." in message
    assert check_memory(job_with(runtime={"gpuMemory": "24Gi"}), sd15, []) == []


def test_what_cannot_be_measured_is_a_warning(sd15: ModelConfig) -> None:
    """Another check names the wrong target; this one must not end the preflight before."""
    training = {"method": "lora", "lora": {"targets": ["nope"]}}
    job = job_with(runtime={"gpuMemory": "12Gi"}, training=training)
    (warning,) = check_memory(job, sd15, [])
    assert warning.startswith("spec.runtime.gpuMemory: could not be compared with the job: ")


def test_a_checkpoint_holds_weights_and_moments(sd15: ModelConfig) -> None:
    full = checkpoint_bytes(sd15, resolve_training(FULL))
    assert full == pytest.approx(10.3e9, rel=0.01)
    assert checkpoint_bytes(sd15, resolve_training({"method": "lora"})) < 0.1e9


FULL = {"method": "full", "learning_rate": 1e-6}


@pytest.mark.parametrize(
    ("row", "training"),
    [
        ("`lora`", {"method": "lora"}),
        pytest.param("`full`", FULL, marks=pytest.mark.slow),
        pytest.param(
            "`full`, text encoder `full`, `ema`",
            {**FULL, "text_encoder": FULL, "ema": {"enabled": True}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["lora", "full", "full text encoder"],
)
def test_the_page_on_sizes_has_these_figures(
    sd15: ModelConfig, row: str, training: dict[str, Any]
) -> None:
    cells = []
    for resolution, ranks in ((512, 1), (512, 8), (768, 1)):
        stages = measure(sd15, ranks=ranks, resolution=resolution, **training)
        cells.append(f"{max(stages.values()) + OVERHEAD / GIB:.1f}")
    saved = checkpoint_bytes(sd15, resolve_training(training))
    cells.append(f"{saved / 1e9:.1f} GB" if saved > 1e9 else f"{saved / 1e6:.0f} MB")
    assert f"\n| {row} | {' | '.join(cells)} |\n" in SIZES.read_text()


def test_a_grace_period_that_is_too_short_for_a_checkpoint_is_warned_of(sd15: ModelConfig) -> None:
    (warning,) = check_grace_period(job_with(grace=60, nodes=1), sd15)
    assert "spec.runtime.terminationGracePeriodSeconds" in warning
    assert "10.3 GB, and its upload may take 119 s; 60 s are too few, so raise it" in warning
    assert not list(check_grace_period(job_with(grace=60, nodes=4), sd15))
    assert not list(check_grace_period(job_with(grace=300, nodes=1), sd15))


def job_with(grace: int = 600, nodes: int = 1, **spec: Any) -> ResolvedJob:
    """A job with that grace period."""
    return resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "s3://models/sd15"},
                "subjects": [{"images": "s3://data/mug", "identifier": "zwx", "classNoun": "mug"}],
                "output": "s3://results",
                "training": {"method": "full"},
                "runtime": {"nodes": nodes, "terminationGracePeriodSeconds": grace},
                **spec,
            },
        }
    )


def test_ranks_that_divide_the_denoiser_need_less_memory(sd15: ModelConfig) -> None:
    # Weights, gradients and AdamW's moments in fp32, and the base model's weights in bf16.
    per_weight, weights = 4 + 4 + 8 + 2, 859.5e6
    settings = {"method": "full", "precision": "bf16", "resolution": 512}
    whole = measure(sd15, ranks=8, **settings)
    divided = measure(sd15, ranks=8, strategy="fsdp", **settings)
    saved = {stage: (whole[stage] - divided[stage]) * GIB for stage in whole}
    assert saved["loading the model"] == pytest.approx(weights * 4 * 7 / 8, rel=0.15)
    # What autocast makes of all weights is not kept, either.
    assert saved["a training step"] == pytest.approx(weights * (per_weight * 7 / 8 + 2), rel=0.1)
    alone = measure(sd15, ranks=1, strategy="fsdp", **settings)
    assert alone == measure(sd15, ranks=1, **settings)


def test_what_does_not_fit_on_one_gpu_is_divided_unless_the_job_says_otherwise(
    sd15: ModelConfig,
) -> None:
    runtime = {"gpuMemory": "12Gi", "gpusPerNode": 4}
    training = {"method": "full", "gradientCheckpointing": True}

    def chosen(**changes: Any) -> str | None:
        job = job_with(runtime={**runtime, **changes}, training=training)
        return choose_strategy(job, sd15, []).spec.runtime.strategy

    assert chosen() == "fsdp"
    assert chosen(gpuMemory="80Gi") is None
    assert chosen(strategy="ddp") == "ddp"
    assert chosen(gpusPerNode=0, processesPerNode=4) is None
    training["optimizer"] = {"name": "adafactor"}  # fsdp does not divide its state
    assert chosen() is None
