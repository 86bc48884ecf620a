"""A GPU whose memory is too small ends the job at once, with what to lower."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.process.errors import GpuMemoryError
from dreambooth_trainer.process.out_of_memory import explain_out_of_memory, remedies
from tests.trainer.ranks import run_ranks

# The messages of torch 2.13's allocator and of its libraries.
ALLOCATOR = (
    "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 23.57 GiB of"
    " which 1.13 GiB is free. Including non-PyTorch memory, this process has 22.43 GiB memory in"
    " use. Of the allocated memory 21.80 GiB is allocated by PyTorch, and 170.02 MiB is reserved"
    " by PyTorch but unallocated."
)
LIBRARIES = (
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "NCCL error: unhandled cuda error, Last error: Cuda failure 2 'out of memory'",
)
MakeJob = Callable[..., dict[str, Any]]


def fail(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError(ALLOCATOR)


def fail_in(function: str) -> None:
    """Have a function of the trainer's run out of memory."""
    import importlib

    module, _, path = function.partition(":")
    owner: Any = importlib.import_module(f"dreambooth_trainer.{module}")
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, fail)


@pytest.mark.parametrize(
    ("function", "stage"),
    [
        ("models.families.stable_diffusion:StableDiffusion.encode_images", "encoding latents"),
        ("data.prior.class_images:generate_images", "generating class images"),
        ("evaluation.image_generator:generate_images", "sampling"),
        ("training.ema:ExponentialMovingAverage.update", "a training step"),
    ],
)
def test_a_stage_that_runs_out_of_memory_ends_the_job_with_its_name(
    job: MakeJob, tmp_path: Path, function: str, stage: str
) -> None:
    made = job(
        prior={"cache": f"file://{tmp_path}/class-images"}, training={"ema": {"enabled": True}}
    )
    ended = run_ranks(made, tmp_path, prepare=partial(fail_in, function))
    assert ended.codes == [ExitCode.OUT_OF_MEMORY]
    assert ended.termination.message.startswith(
        f"out of GPU memory in {stage}: 2.25 GiB more were wanted, and 1.13 GiB of 23.57 GiB were"
        " free; "
    )
    assert "spec.training.resolution" in ended.termination.message


def fail_on_rank_1() -> None:
    import os

    if os.environ["RANK"] == "1":
        fail_in("models.families.stable_diffusion:StableDiffusion.predict")


def test_the_rank_that_runs_out_of_memory_decides(job: MakeJob, tmp_path: Path) -> None:
    ended = run_ranks(job(), tmp_path, per_node=2, prepare=fail_on_rank_1)
    assert ended.codes[1] == ExitCode.OUT_OF_MEMORY
    assert "out of GPU memory in a training step" in ended.logs[1]


@pytest.mark.parametrize("message", LIBRARIES)
def test_a_librarys_failed_allocation_counts(job: MakeJob, message: str) -> None:
    with (
        pytest.raises(GpuMemoryError, match="in sampling: "),
        explain_out_of_memory("sampling", DreamBoothJob.model_validate(job())),
    ):
        raise RuntimeError(message)


def test_other_errors_stay_what_they_are(job: MakeJob) -> None:
    with (
        pytest.raises(RuntimeError, match="illegal memory access"),
        explain_out_of_memory("sampling", DreamBoothJob.model_validate(job())),
    ):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_the_innermost_stage_counts(job: MakeJob) -> None:
    made = DreamBoothJob.model_validate(job())
    with (
        pytest.raises(GpuMemoryError, match="in scoring"),
        explain_out_of_memory("a training step", made),
        explain_out_of_memory("scoring", made),
    ):
        fail()


def test_only_what_can_still_be_lowered_is_named(job: MakeJob) -> None:
    most = {"globalBatch": 4, "method": "full", "ema": {"enabled": True}, "precision": "fp32"}
    assert remedies("a training step", DreamBoothJob.model_validate(job(training=most))) == (
        "raise spec.training.accumulation, set spec.training.gradientCheckpointing to true,"
        " set spec.training.precision to bf16, set spec.training.method to lora,"
        " set spec.prior.target to noise, set spec.training.optimizer.name to adamw-8bit,"
        " set spec.training.ema.enabled to false,"
        " lower spec.training.resolution or use GPUs with more memory"
    )
    least = {"globalBatch": 1, "method": "lora", "gradientCheckpointing": True, "precision": "bf16"}
    assert remedies("a training step", DreamBoothJob.model_validate(job(training=least))) == (
        "set spec.model.quantization, set spec.runtime.offload, lower spec.training.resolution"
        " or use GPUs with more memory"
    )
    for spec in (
        {"training": {**least, "lora": {"type": "dora"}}},
        {"training": least, "runtime": {"strategy": "fsdp"}},
        {"training": least, "model": {"mergedAdapters": [{"source": "/style.safetensors"}]}},
    ):
        assert "quantization" not in remedies(
            "a training step", DreamBoothJob.model_validate(job(**spec))
        )
    divided = DreamBoothJob.model_validate(job(training=most, runtime={"strategy": "fsdp"}))
    assert "adamw-8bit" not in remedies("a training step", divided)
    assert "lower spec.training.perDeviceBatch and raise accumulation" in remedies(
        "a training step",
        DreamBoothJob.model_validate(job(training={"globalBatch": None, "perDeviceBatch": 2})),
    )
    assert remedies("loading the model", DreamBoothJob.model_validate(job())) == (
        "use GPUs with more memory"
    )
