"""Out-of-memory errors of CUDA, as errors that name the stage and the fields to lower."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.training import Training
from dreambooth_trainer.process.errors import GpuMemoryError

GpuStage = Literal[
    "loading the model",
    "encoding text",
    "captioning",
    "generating class images",
    "encoding latents",
    "a training step",
    "sampling",
    "scoring",
    "exporting",
]
"""What a GPU's memory is needed for; finer than the stages of the job's status."""

TRAINED_STAGES = ("a training step", "sampling", "scoring", "exporting")
"""Stages that the method of training changes."""

# Libraries report a failed allocation as a plain RuntimeError.
_LIBRARIES = re.compile(r"out of memory|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED")
_WANTED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_FREE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


@contextmanager
def explain_out_of_memory(stage: GpuStage, job: DreamBoothJob) -> Iterator[None]:
    """Within, CUDA's out-of-memory errors become `GpuMemoryError`; the innermost stage counts.

    Raises:
        GpuMemoryError: It says how much memory was wanted and free, and which fields to lower.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not _LIBRARIES.search(str(error)):
            raise
        raise GpuMemoryError(
            f"out of GPU memory in {stage}: {_amounts(str(error))}; {remedies(stage, job)}"
        ) from error


def _amounts(message: str) -> str:
    """What was wanted and free, from the message of torch's allocator; else its first line."""
    wanted, free = _WANTED.search(message), _FREE.search(message)
    if wanted and free:
        return f"{wanted[1]} more were wanted, and {free[2]} of {free[1]} were free"
    return message.strip().partition("\n")[0]


def remedies(stage: GpuStage, job: DreamBoothJob) -> str:
    """What lowers the memory of a stage, by field: only what this job can still change."""
    last = "use GPUs with more memory"
    if stage == "captioning":
        return f"name a smaller spec.captioning.model, or an endpoint, or {last}"
    changes: list[str] = []
    if stage == "a training step":
        changes += _step_changes(job.spec.training)
    if stage == "scoring":
        changes.append("use smaller spec.evaluation.encoders")
    if stage in TRAINED_STAGES:
        changes += _state_changes(job.spec)
    if job.spec.model.quantization is None and may_quantize(job.spec):
        changes.append("set spec.model.quantization")
    if job.spec.runtime.offload is None and may_offload(job.spec):
        changes.append("set spec.runtime.offload")
    if stage not in ("loading the model", "encoding text"):
        changes.append("lower spec.training.resolution")
    return f"{', '.join(changes)} or {last}" if changes else last


def may_quantize(spec: Spec) -> bool:
    """Whether the rules of the API allow `spec.model.quantization`."""
    training = spec.training
    is_divided = spec.runtime.strategy == "fsdp"
    return (
        training.method == "lora"
        and training.lora.type != "dora"
        and not is_divided
        and not spec.model.merged_adapters
    )


def may_offload(spec: Spec) -> bool:
    """Whether the rules of the API allow `spec.runtime.offload`."""
    training = spec.training
    return (
        training.method == "lora"
        and training.lora.type != "dora"
        and training.text_encoder.method != "full"
        and spec.runtime.strategy != "fsdp"
    )


def _step_changes(training: Training) -> Iterator[str]:
    """What lowers the memory of activations."""
    if (training.global_batch or 1) > training.accumulation:
        yield "raise spec.training.accumulation"
    if (training.per_device_batch or 1) > 1:
        yield "lower spec.training.perDeviceBatch and raise accumulation"
    if not training.gradient_checkpointing:
        yield "set spec.training.gradientCheckpointing to true"
    if training.precision == "fp32":
        yield "set spec.training.precision to bf16"


def _state_changes(spec: Spec) -> Iterator[str]:
    """What lowers the memory of weights, gradients and moments."""
    training, prior = spec.training, spec.prior
    if training.method == "full":
        yield "set spec.training.method to lora"
        if prior.enabled and prior.weight != 0 and prior.target == "prediction":
            yield "set spec.prior.target to noise"  # without a copy of the base model
        if training.optimizer.name == "adamw" and spec.runtime.strategy != "fsdp":
            yield "set spec.training.optimizer.name to adamw-8bit"
    if training.text_encoder.method == "full":
        yield "set spec.training.textEncoder.method to lora or frozen"
    if training.ema.enabled:
        yield "set spec.training.ema.enabled to false"
