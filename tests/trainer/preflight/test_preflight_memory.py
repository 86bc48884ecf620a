"""The memory estimate counts what is there: checked on Stable Diffusion 1.5's own shapes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.evaluation.encoder_config import ARCHITECTURES as ENCODERS
from dreambooth_trainer.evaluation.encoder_config import EncoderConfig
from dreambooth_trainer.evaluation.preprocessing import read_preprocessing
from dreambooth_trainer.models.model_config import (
    ModelConfig,
    read_model_config,
    read_shipped_config,
)
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from dreambooth_trainer.preflight import resources
from dreambooth_trainer.preflight.memory.stages import (
    GIB,
    OVERHEAD,
    checkpoint_bytes,
    measure_stages,
)
from dreambooth_trainer.preflight.resources import (
    check_grace_period,
    check_host_memory,
    check_memory,
    choose_strategy,
)
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.out_of_memory import GpuStage
from dreambooth_trainer.resolved_job import ResolvedJob
from tests.trainer.resolved import resolve, resolve_training

CLIP = EncoderConfig(
    ENCODERS["clip"],
    CLIPConfig(),
    read_preprocessing(json.loads(CLIPImageProcessorPil().to_json_string())),
)
Measure = Callable[..., dict[GpuStage, Any]]
SIZES = Path(__file__).parents[3] / "docs" / "sizes.md"
LORA = {"method": "lora"}
FULL = {"method": "full", "learning_rate": 1e-6}


@pytest.fixture(scope="module")
def sd15() -> ModelConfig:
    """Stable Diffusion 1.5 without weights."""
    return read_shipped_config(ARCHITECTURES["sd1"])


@pytest.fixture(scope="module")
def measured() -> Measure:
    """`measure_stages`, once for equal jobs: each takes seconds."""
    known: dict[str, dict[GpuStage, int]] = {}

    def measure_once(job: ResolvedJob, config: ModelConfig, **options: Any) -> dict[GpuStage, int]:
        # Of `spec.runtime`, it reads no more, and rates take no memory.
        placement = job.spec.runtime.strategy or "ddp", job.spec.runtime.offload
        others = job.spec.model_dump_json(exclude={"runtime": True, "training": {"learning_rate"}})
        key = f"{others} {placement} {options}"
        if key not in known:
            known[key] = measure_stages(job, config, **options)
        return dict(known[key])

    return measure_once


@pytest.fixture
def measure(measured: Measure, sd15: ModelConfig) -> Measure:
    """Measures a job with these settings of training, in GiB by stage."""

    def measure(
        ranks: int = 1,
        encoders: Sequence[EncoderConfig] = (),
        strategy: str = "ddp",
        **training: Any,
    ) -> dict[GpuStage, float]:
        job = job_with(training=training, runtime={"strategy": strategy})
        stages = measured(
            job, sd15, local_batch=2, ranks=ranks, encoders=list(encoders), captions=None
        )
        return {stage: size / GIB for stage, size in stages.items()}

    return measure


@pytest.fixture
def _checks_measure_once(measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks take figures that are known."""
    monkeypatch.setattr(resources, "measure_stages", measured)


def test_the_skeleton_has_the_published_sizes_and_no_memory(sd15: ModelConfig) -> None:
    sizes = {name: part.num_parameters() / 1e6 for name, part in sd15.skeleton.parts.items()}
    assert sizes == pytest.approx({"unet": 859.5, "vae": 83.7, "text_encoder": 123.1}, abs=0.1)
    assert all(weight.is_meta for weight in sd15.skeleton.denoiser.parameters())
    assert isinstance(sd15.skeleton.denoiser, nn.Module)
    assert sd15.skeleton.latent_shape(512) == (4, 64, 64)
    assert (sd15.skeleton.resolution_step, sd15.skeleton.native_resolution) == (64, 512)


def test_every_stage_is_measured(measure: Measure) -> None:
    stages = measure(encoders=[CLIP], resolution=1024)
    assert set(stages) == {
        "loading the model", "encoding text", "generating class images", "encoding latents",
        "a training step", "sampling", "scoring", "exporting",
    }  # fmt: skip
    loaded = 83.7e6 * 4 + (859.5e6 + 123.1e6) * 2  # the VAE is fp32
    assert stages["loading the model"] == pytest.approx(loaded / GIB, rel=1e-3)
    # One image at a time in fp32, where eight would take 20 GiB. The text encoder has left.
    assert 2 < stages["encoding latents"] - (loaded - 123.1e6 * 2) / GIB < 4


def test_gradients_of_several_ranks_are_counted_once(measure: Measure) -> None:
    """DDP's gradients are views of its buckets: they are there during the forward pass too."""
    one = measure(**FULL)["a training step"]
    many = measure(ranks=8, **FULL)["a training step"]
    gradients = 859.5e6 * 4 / GIB
    assert 4 * gradients < one < many < one + gradients + 0.1


@pytest.mark.slow
def test_what_a_schedule_free_step_takes_besides_its_state_is_counted(measure: Measure) -> None:
    checkpointed = {**FULL, "gradient_checkpointing": True}
    adamw = measure(**checkpointed)["a training step"]
    optimizer = {"name": "schedule-free-adamw"}
    # Roots of the second moments, when activations are gone.
    assert measure(**checkpointed, optimizer=optimizer)["a training step"] > adamw + 1


def test_gradient_checkpointing_and_half_precision_take_less(measure: Measure) -> None:
    plain = measure(**LORA)["a training step"]
    assert measure(**LORA, gradient_checkpointing=True)["a training step"] < plain - 1
    assert measure(**LORA, precision="fp32")["a training step"] > plain + 2


@pytest.mark.usefixtures("_checks_measure_once")
def test_a_job_that_cannot_fit_is_refused_with_its_stages_and_fields(sd15: ModelConfig) -> None:
    job = job_with(runtime={"gpuMemory": "12Gi"}, training=FULL)
    with pytest.raises(BadConfigError) as refused:
        check_memory(job, sd15, [])
    message = str(refused.value)
    assert message.startswith("spec.runtime.gpuMemory: sampling needs 1")
    assert "a training step 1" in message
    assert "it fits with spec.training.method: lora (5." in message
    assert check_memory(job_with(runtime={"gpuMemory": "24Gi"}, training=FULL), sd15, []) == []


def test_what_cannot_be_measured_is_a_warning(sd15: ModelConfig) -> None:
    """Another check names the wrong target; this one must not end the preflight before."""
    training = {"method": "lora", "lora": {"targets": ["nope"]}}
    job = job_with(runtime={"gpuMemory": "12Gi"}, training=training)
    (warning,) = check_memory(job, sd15, [])
    assert warning.startswith("spec.runtime.gpuMemory: could not be compared with the job: ")


def test_a_checkpoint_holds_weights_and_moments(sd15: ModelConfig) -> None:
    full = checkpoint_bytes(sd15, resolve_training(FULL))
    assert full == pytest.approx(10.3e9, rel=0.01)
    assert checkpoint_bytes(sd15, resolve_training(LORA)) < 0.1e9


@pytest.mark.parametrize(
    ("row", "training"),
    [
        ("`lora`", LORA),
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
    measure: Measure, sd15: ModelConfig, row: str, training: dict[str, Any]
) -> None:
    cells = []
    for resolution, ranks in ((512, 1), (512, 8), (768, 1)):
        stages = measure(ranks=ranks, resolution=resolution, **training)
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


def test_ranks_that_divide_the_denoiser_need_less_memory(measure: Measure) -> None:
    # Weights, gradients and AdamW's moments in fp32, and the base model's weights in bf16.
    per_weight, weights = 4 + 4 + 8 + 2, 859.5e6
    whole = measure(ranks=8, **FULL)
    divided = measure(ranks=8, strategy="fsdp", **FULL)
    saved = {stage: (whole[stage] - divided[stage]) * GIB for stage in whole}
    assert saved["loading the model"] == pytest.approx(weights * 4 * 7 / 8, rel=0.15)
    # What autocast makes of all weights is not kept, either.
    assert saved["a training step"] == pytest.approx(weights * (per_weight * 7 / 8 + 2), rel=0.1)


def test_one_rank_divides_nothing(random_model: Path) -> None:
    config = read_model_config(Model(source=str(random_model)), Storage(StorageSettings()))
    assert config is not None
    alone, plain = (
        measure_stages(
            job_with(training={**FULL, "resolution": 64}, runtime={"strategy": strategy}),
            config,
            local_batch=2,
            ranks=1,
        )
        for strategy in ("fsdp", "ddp")
    )
    assert alone == plain


@pytest.mark.usefixtures("_checks_measure_once")
def test_what_does_not_fit_on_one_gpu_is_divided_unless_the_job_says_otherwise(
    sd15: ModelConfig,
) -> None:
    runtime = {"gpuMemory": "12Gi", "gpusPerNode": 8}
    training: dict[str, Any] = dict(FULL)

    def chosen(**changes: Any) -> str | None:
        job = job_with(runtime={**runtime, **changes}, training=training)
        return choose_strategy(job, sd15, []).spec.runtime.strategy

    assert chosen() == "fsdp"
    assert chosen(gpuMemory="80Gi") is None
    assert chosen(strategy="ddp") == "ddp"
    assert chosen(gpusPerNode=0, processesPerNode=8) is None
    training["optimizer"] = {"name": "adafactor"}  # fsdp does not divide its state
    assert chosen() is None


@pytest.mark.parametrize(
    ("changes", "limit", "needed"),
    [
        ({"runtime": {"gpusPerNode": 8}}, "40Gi", 8 * (859.5e6 * 4 / GIB + 2)),
        (
            {"runtime": {"gpusPerNode": 8, "strategy": "fsdp"}},
            "45Gi",
            8 * ((859.5e6 + 123.1e6) * 4 / GIB + 2),
        ),
        (
            {"training": {"method": "lora"}, "runtime": {"offload": {}}},
            "3Gi",
            (859.5e6 * 2 + 83.7e6 * 4) / GIB + 2,
        ),
        (
            {
                "training": {"method": "lora"},
                "model": {"source": "s3://models/sd15.safetensors", "layout": "single-file"},
            },
            "3Gi",
            (859.5e6 * 2 + 83.7e6 * 4 + 123.1e6 * 2) / GIB + 2,
        ),
    ],
    ids=["ddp", "fsdp", "offload", "single file"],
)
def test_a_pod_with_too_little_memory_for_its_ranks_is_warned_of(
    sd15: ModelConfig, changes: dict[str, Any], limit: str, needed: float
) -> None:
    def check(limit: str) -> list[str]:
        runtime = {**changes.get("runtime", {}), "resources": {"limits": {"memory": limit}}}
        return list(check_host_memory(job_with(**{**changes, "runtime": runtime}), sd15))

    (warning,) = check(limit)
    assert warning.startswith(f"spec.runtime.resources.limits.memory: is {limit}, and a pod's ")
    named = int(warning.rpartition(" ")[2].removesuffix("Gi"))
    assert needed <= named <= needed * 1.01 + 1
    assert check(f"{named}Gi") == []
