"""Checks whether the job fits into memory, and its last checkpoint into the grace period."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.pods.runtime import ranks_per_node, world_size
from dreambooth_trainer.evaluation.encoder_config import EncoderConfig
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.memory.host import host_bytes
from dreambooth_trainer.preflight.memory.stages import (
    GIB,
    OVERHEAD,
    checkpoint_bytes,
    measure_stages,
)
from dreambooth_trainer.preflight.memory.suggestions import suggest_changes
from dreambooth_trainer.process.batch_split import split_batch
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.process.exit_status import describe
from dreambooth_trainer.process.out_of_memory import GpuStage, remedies
from dreambooth_trainer.resolved_job import ResolvedJob

STRATEGY = "spec.runtime.strategy"
UPLOAD_BYTES_PER_SECOND = 100e6
"""Of one node to a slow object store; every node writes its share of a checkpoint."""
PROCESS = 2 * GIB
"""Host memory of a rank beside weights: the libraries, CUDA's context, buffers."""
LAST_STEP_SECONDS = 15
"""Until all ranks have seen the request to stop and have finished their step."""

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
         "P": 10**15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}  # fmt: skip


def check_grace_period(job: ResolvedJob, config: ModelConfig) -> Iterator[str]:
    """Warn when terminationGracePeriodSeconds is too short to upload the last checkpoint.

    Returns:
        The warning, in seconds and bytes, or nothing.
    """
    runtime = job.spec.runtime
    grace = runtime.termination_grace_period_seconds
    size = checkpoint_bytes(config, job.spec.training)
    needed = math.ceil(size / (runtime.nodes * UPLOAD_BYTES_PER_SECOND)) + LAST_STEP_SECONDS
    if needed > grace:
        yield (
            "spec.runtime.terminationGracePeriodSeconds: the last checkpoint has"
            f" {size / 1e9:.1f} GB, and its upload may take {needed} s; {grace} s are too few,"
            " so raise it"
        )


def check_host_memory(job: ResolvedJob, config: ModelConfig) -> Iterator[str]:
    """Warn when a pod's memory limit is lower than what its ranks may need to load the model.

    No error: weights that are mapped from files in their own precision can be dropped and read
    again.
    """
    runtime = job.spec.runtime
    limit = runtime.resources.limits.get("memory")
    if limit is None or runtime.gpus_per_node == 0:
        return
    ranks = ranks_per_node(runtime)
    weights = host_bytes(job, config)
    needed = weights + ranks * PROCESS
    if needed > _bytes(limit):
        why = ""
        if runtime.offload is not None:
            why = ", as runtime.offload keeps weights there"
        elif runtime.strategy == "fsdp":
            why = ", as fsdp divides the denoiser there"
        yield (
            f"spec.runtime.resources.limits.memory: is {limit}, and a pod's {ranks} rank(s) may"
            f" need {weights / GIB:.1f} GiB for weights at once{why}, and about"
            f" {PROCESS / GIB:.0f} each for themselves; raise it to {math.ceil(needed / GIB)}Gi"
        )


def choose_strategy(
    job: ResolvedJob,
    config: ModelConfig,
    encoders: Sequence[EncoderConfig],
    captions: Collection[str] | None = None,
) -> ResolvedJob:
    """The job with `fsdp` as its strategy, where it names none and does not fit otherwise.

    What fsdp is not for stays as it is, and so does what cannot be measured.
    """
    runtime = job.spec.runtime
    if runtime.strategy is not None or runtime.gpu_memory is None or runtime.gpus_per_node == 0:
        return job
    if world_size(runtime) == 1:
        return job
    divided = runtime.model_copy(update={"strategy": "fsdp"})
    changed = job.model_copy(update={"spec": job.spec.model_copy(update={"runtime": divided})})
    with suppress(Exception):  # the libraries raise anything for settings that they cannot use
        DreamBoothJob.model_validate(changed.model_dump(exclude_unset=True))  # its rules
        needed = max(_measure(job, config, encoders, captions).values()) + OVERHEAD
        if needed > _bytes(runtime.gpu_memory):
            return changed
    return job


def _measure(
    job: ResolvedJob,
    config: ModelConfig,
    encoders: Sequence[EncoderConfig],
    captions: Collection[str] | None,
) -> dict[GpuStage, int]:
    """Bytes of tensors on one GPU, by stage."""
    prior, ranks = job.spec.prior, world_size(job.spec.runtime)
    # With prior preservation, each forward pass takes a class image beside every subject image.
    per_subject_image = 2 if prior.enabled and prior.weight != 0 else 1
    images = split_batch(job, ranks).local * per_subject_image
    return measure_stages(
        job, config, local_batch=images, ranks=ranks, encoders=encoders, captions=captions
    )


def check_memory(
    job: ResolvedJob,
    config: ModelConfig,
    encoders: Sequence[EncoderConfig],
    captions: Collection[str] | None = None,
    captioning: int = 0,
) -> list[str]:
    """Compare the memory of every stage with `spec.runtime.gpuMemory`, where that is set.

    Args:
        job: The job.
        config: Its model.
        encoders: The models of `spec.evaluation`.
        captions: See `measure_stages`.
        captioning: Bytes of the vision-language model, which has the GPU before the base model.

    Returns:
        A warning where CUDA's own needs decide whether the job fits, or where nothing could be
        measured.

    Raises:
        BadConfigError: One GPU has too little memory for the tensors of a stage.
    """
    runtime = job.spec.runtime
    if runtime.gpu_memory is None or runtime.gpus_per_node == 0:
        return []
    available = _bytes(runtime.gpu_memory)

    def total(job: ResolvedJob) -> int:
        return max(_measure(job, config, encoders, captions).values()) + OVERHEAD

    try:
        stages = _measure(job, config, encoders, captions)
        needed = max(stages.values()) + OVERHEAD
        suggested = suggest_changes(job, total, needed, available) if needed > available else ""
        if captioning > max(stages.values()):
            suggested = ""  # none of the changes is about that model
        if captioning:
            stages["captioning"] = captioning
    except Exception as error:  # the libraries raise anything for settings that they cannot use
        return [f"spec.runtime.gpuMemory: could not be compared with the job: {describe(error)}"]
    largest = max(stages, key=lambda stage: stages[stage])
    listed = ", ".join(f"{stage} {size / GIB:.1f}" for stage, size in stages.items())
    message = (
        f"spec.runtime.gpuMemory: {largest} needs {stages[largest] / GIB:.1f} GiB for its tensors,"
        f" and about {OVERHEAD / GIB:.0f} for CUDA itself; one GPU has {available / GIB:.1f}"
        f" ({listed}); {suggested or remedies(largest, job)}"
    )
    if stages[largest] > available:
        raise BadConfigError(message)
    return [message] if stages[largest] + OVERHEAD > available else []


def _bytes(quantity: str) -> float:
    """A Kubernetes quantity (apimachinery resource.Quantity) in bytes; `m` is a thousandth."""
    number = quantity.rstrip("kmMGTi")
    unit = quantity.removeprefix(number)
    return float(number) * (0.001 if unit == "m" else UNITS[unit])
