"""What makes a job fit into the memory of a GPU: measured changes, the cheapest first."""

from collections.abc import Callable, Iterator
from typing import Any

from dreambooth_api.models.model import Quantization
from dreambooth_api.models.pods.runtime import Offload, world_size
from dreambooth_trainer.process.batch_split import split_batch
from dreambooth_trainer.process.out_of_memory import may_offload, may_quantize
from dreambooth_trainer.resolved_job import ResolvedJob

Change = tuple[str, ResolvedJob]
"""The fields to set, and the job with them."""
LEAST_GAIN = 0.02
"""Of the memory: what saves less is not suggested."""
OFFLOADS = (0.5, 1.0)
"""Shares of the blocks that are suggested to wait on the host."""


def suggest_changes(
    job: ResolvedJob, measure: Callable[[ResolvedJob], int], needed: int, available: float
) -> str | None:
    """The changes after which a job fits, each with what the job needs then. None: none are enough.

    Args:
        job: The job.
        measure: Bytes that a job needs on one GPU, of its largest stage.
        needed: Those of this job.
        available: Bytes of one GPU.
    """
    said: list[str] = []
    while needed > available:
        for text, changed in _changes(job):
            size = measure(changed)
            if size < needed * (1 - LEAST_GAIN):
                job, needed = changed, size
                said.append(f"{text} ({size / 1024**3:.1f} GiB)")
                break
        else:
            return None
    return f"it fits with {', then '.join(said)}"


def _changes(job: ResolvedJob) -> Iterator[Change]:
    """What can still be changed, the cheapest first."""
    spec = job.spec
    training = spec.training
    if not training.gradient_checkpointing:
        text = "spec.training.gradientCheckpointing: true"
        yield text, _with(job, "training", gradient_checkpointing=True)
    ranks = world_size(spec.runtime)
    if (local := split_batch(job, ranks).local) > 1:
        passes = training.accumulation * local
        smaller = {"accumulation": passes}
        if training.global_batch is None:
            smaller["per_device_batch"] = 1
        names = {"per_device_batch": "perDeviceBatch"}
        text = " and ".join(f"spec.training.{names.get(k, k)}: {v}" for k, v in smaller.items())
        yield text, _with(job, "training", **smaller)
    if training.method == "full":
        # The text encoders' own method stays; fsdp divides none beside adapters.
        if spec.runtime.strategy != "fsdp" or training.text_encoder.method != "full":
            yield "spec.training.method: lora", _with(job, "training", method="lora")
        return
    if may_quantize(spec):
        yield from _quantizations(job)
    if may_offload(spec):
        now = spec.runtime.offload.fraction if spec.runtime.offload else 0
        for fraction in (each for each in OFFLOADS if each > now):
            text = f"spec.runtime.offload.fraction: {fraction:g}"
            yield text, _with(job, "runtime", offload=Offload(fraction=fraction))


def _quantizations(job: ResolvedJob) -> Iterator[Change]:
    """Formats with fewer bits, those that round the least first."""
    quantization = job.spec.model.quantization
    if quantization is None:
        yield _quantized(job, "denoiser", Quantization(denoiser="int8"))
        return
    if quantization.text_encoders is None and not job.spec.trains_text:
        changed = quantization.model_copy(update={"text_encoders": "int8"})
        yield _quantized(job, "text_encoders", changed)
    if quantization.denoiser != "nf4":
        changed = quantization.model_copy(update={"denoiser": "nf4"})
        yield _quantized(job, "denoiser", changed)


def _quantized(job: ResolvedJob, part: str, quantization: Quantization) -> Change:
    name = "textEncoders" if part == "text_encoders" else part
    text = f"spec.model.quantization.{name}: {getattr(quantization, part)}"
    return text, _with(job, "model", quantization=quantization)


def _with(job: ResolvedJob, section: str, **changes: Any) -> ResolvedJob:
    """The job with other fields of a section."""
    changed = getattr(job.spec, section).model_copy(update=changes)
    return job.model_copy(update={"spec": job.spec.model_copy(update={section: changed})})
