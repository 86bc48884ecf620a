"""Preflight suggests what makes a job fit, with what it needs then."""

from typing import Any

import pytest

from dreambooth_trainer.preflight.memory.stages import GIB
from dreambooth_trainer.preflight.memory.suggestions import suggest_changes
from dreambooth_trainer.resolved_job import ResolvedJob
from tests.trainer.resolved import resolve_job

WEIGHTS = {None: 20, "int8": 11, "nf4": 6}


def measure(job: ResolvedJob) -> int:
    """As of a large model: weights, and activations of each image."""
    spec = job.spec
    quantization, training = spec.model.quantization, spec.training
    weights = WEIGHTS[quantization.denoiser if quantization else None]
    if (offload := spec.runtime.offload) is not None:
        weights *= 1 - 0.9 * offload.fraction
    text = 1 if quantization and quantization.text_encoders else 4
    images = (training.global_batch or training.per_device_batch or 1) / (
        training.accumulation if training.global_batch else 1
    )
    activations = images * (2 if training.gradient_checkpointing else 8)
    full = 60 if training.method == "full" else 0
    return int((max(weights + activations, weights + text) + full) * GIB)


def suggestion(available: int, **training: Any) -> str | None:
    job = resolve_job({"method": "lora", **training})
    return suggest_changes(job, measure, measure(job), available * GIB)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (25, ["gradientCheckpointing: true (24.0 GiB)"]),
        (16, ["quantization.denoiser: int8 (15.0 GiB)"]),
        (
            14,
            ["quantization.denoiser: int8 (15.0 GiB)", "quantization.textEncoders: int8 (13.0 GiB"],
        ),
        (8, ["quantization.textEncoders: int8 (13.0 GiB)", "quantization.denoiser: nf4 (8.0 GiB)"]),
    ],
)
def test_the_cheapest_changes_that_are_enough_are_suggested(
    available: int, expected: list[str]
) -> None:
    found = suggestion(available)
    assert found is not None
    assert all(each in found for each in expected)
    assert found.count("GiB") == (1 if available == 25 else len(expected) + 1 + (available == 8))


def test_a_batch_is_divided_before_weights_are_rounded() -> None:
    found = suggestion(24, globalBatch=4, gradientCheckpointing=True)
    assert found == "it fits with spec.training.accumulation: 4 (24.0 GiB)"
    found = suggestion(24, perDeviceBatch=4, accumulation=2, gradientCheckpointing=True)
    assert found is not None
    assert "spec.training.accumulation: 8 and spec.training.perDeviceBatch: 1" in found


def test_all_weights_give_way_to_adapters() -> None:
    found = suggestion(30, method="full")
    assert found is not None
    assert "spec.training.method: lora (24.0 GiB)" in found


def test_weights_wait_on_the_host_when_rounding_is_not_enough() -> None:
    found = suggestion(5)
    assert found is not None
    assert found.endswith(
        "denoiser: nf4 (8.0 GiB), then spec.runtime.offload.fraction: 0.5 (5.3"
        " GiB), then spec.runtime.offload.fraction: 1 (2.6 GiB)"
    )


def test_nothing_is_suggested_that_is_not_enough_or_cannot_work() -> None:
    assert suggestion(2) is None
    assert suggestion(16, lora={"type": "dora"}) is None
