"""Warnings about settings that are valid and probably not meant; none of them stops the job."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from dreambooth_api.models.job import DreamBoothJob, Spec
from dreambooth_api.models.lora import Lora
from dreambooth_api.models.runtime import world_size
from dreambooth_api.models.training import Training

# So few are memorized like the subject's own images, and no longer stand for the class.
FEW_PRIOR_IMAGES = 16
# Four times the rate of the paper for Stable Diffusion, 5e-6.
HIGH_FULL_RATE = 2e-5
# A cosine of one or two steps has its peak alone, and stays a constant rate.
MIN_CYCLE_STEPS = 10
MODEL_FIELDS = (
    "spec.model.source",
    "spec.evaluation.encoders.image",
    "spec.evaluation.encoders.text",
)
LARGE_RESOLUTION = 256
"""Models below this many pixels are small, and take higher learning rates."""
# The model has a strong prior for these, which it would have to unlearn first (paper, section 3.2).
COMMON_WORDS = {
    *("a", "an", "the", "my", "this", "that", "it", "photo", "picture", "image", "style", "art"),
    *("cat", "dog", "man", "woman", "person", "boy", "girl", "baby", "king", "queen", "car"),
    *("house", "red", "blue", "green", "black", "white", "new", "old", "big", "small", "good"),
    *("best", "love", "happy", "cute", "toy", "one", "special", "unique"),
}


def warnings(job: DreamBoothJob) -> list[str]:
    """Warn about a job, one line each: `field: what is unusual; what to do`."""
    spec = job.spec
    return [*_subjects(spec), *_prompts(spec), *_prior(spec), *_training(spec), *_output(job)]


def cluster_warnings(job: DreamBoothJob) -> list[str]:
    """Warn about what works on this machine and not in a pod: local paths that no volume holds."""
    spec = job.model_dump(mode="json", by_alias=True, exclude_none=True)["spec"]
    del spec["runtime"]  # its paths are those of the pods
    fields = [field for field, path in _local_paths("spec", spec) if not _is_mounted(job, path)]
    if not fields:
        return []
    return [
        f"{', '.join(fields)}: local to this machine; for a cluster use s3://, or mount a volume at"
        " the path by spec.runtime.podOverrides (volumes and volumeMounts)"
    ]


def _local_paths(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Fields that hold a local path, and the path."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _local_paths(f"{field}.{name}", child)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _local_paths(f"{field}[{index}]", child)
    elif isinstance(value, str):
        # Only a model may also be a path without a scheme: a prompt may begin with a slash.
        is_path = value.startswith("/") and field in MODEL_FIELDS
        if is_path or value.startswith("file:///"):
            yield field, value.removeprefix("file://")


def _is_mounted(job: DreamBoothJob, path: str) -> bool:
    """Whether the trainer's container has a volume at the path (core/v1 VolumeMount)."""
    containers = job.spec.runtime.pod_overrides.get("spec", {}).get("containers") or []
    mounts = [mount for each in containers for mount in each.get("volumeMounts") or []]
    return any(PurePosixPath(path).is_relative_to(mount["mountPath"]) for mount in mounts)


def _subjects(spec: Spec) -> Iterator[str]:
    for index, subject in enumerate(spec.subjects):
        path = f"spec.subjects[{index}].identifier"
        if subject.identifier.lower() in COMMON_WORDS:
            yield (
                f"{path}: {subject.identifier!r} is a common word, which already means something to"
                " the model; choose a rare one"
            )


def _prompts(spec: Spec) -> Iterator[str]:
    """Prompts without an identifier; one about the class alone is a useful comparison."""
    prompts = spec.samples.prompts
    identifiers = [subject.identifier.lower() for subject in spec.subjects]
    generic = [
        prompt for prompt in prompts if not any(name in prompt.lower() for name in identifiers)
    ]
    if prompts and len(generic) == len(prompts):
        yield (
            "spec.samples.prompts: no prompt contains an identifier, so no sample shows a subject;"
            f" add one with {spec.subjects[0].identifier!r}"
        )
        return
    for prompt in generic:
        yield (
            f"spec.samples.prompts[{prompts.index(prompt)}]: does not contain an identifier, so it"
            " shows the class and not the subject; keep it only as a comparison"
        )


def _prior(spec: Spec) -> Iterator[str]:
    prior = spec.prior
    if not prior.enabled or prior.weight == 0:
        yield (
            "spec.prior: without class images the model forgets the class and overfits sooner;"
            " set enabled to true and weight to 1"
        )
    elif prior.target == "noise" and prior.count < FEW_PRIOR_IMAGES:
        yield f"spec.prior.count: {prior.count} class images are few; 100 to 1000 are usual"


def _training(spec: Spec) -> Iterator[str]:
    training = spec.training
    real = training.resolution is None or training.resolution >= LARGE_RESOLUTION
    is_factor = training.optimizer.name == "prodigy"
    is_high = training.learning_rate > HIGH_FULL_RATE and not is_factor
    if training.method == "full" and real and is_high:
        yield (
            f"spec.training.learningRate: {training.learning_rate:g} is high for full fine-tuning;"
            " 1e-6 to 5e-6 are usual"
        )
    # A job that came through the API server holds every default, so being there means nothing. Nor
    # do targets: run.json holds those of the model.
    chosen = training.lora.model_copy(update={"targets": None})
    if chosen != Lora() and not _has_lora(training):
        yield "spec.training.lora: nothing is trained by lora; set method to lora, or remove it"
    if spec.model.adapter is not None and training.lora.rank != Lora().rank:
        yield (
            "spec.training.lora.rank: has no effect with model.adapter, which has its own;"
            " remove it"
        )
    cycles = training.schedule.cycles
    most = max(1, (training.steps - training.schedule.warmup_steps) // MIN_CYCLE_STEPS)
    if cycles is not None and cycles > most:
        yield (
            f"spec.training.schedule.cycles: {cycles} cycles have fewer than {MIN_CYCLE_STEPS}"
            f" steps each, too few for a decay; set it to at most {most}"
        )
    if spec.checkpoints.every > training.steps:
        yield (
            f"spec.checkpoints.every: a checkpoint every {spec.checkpoints.every} steps means none"
            f" before the end, at {training.steps}; lower it, or a restart begins anew"
        )


def _has_lora(training: Training) -> bool:
    return "lora" in (training.method, training.text_encoder.method)


def _output(job: DreamBoothJob) -> Iterator[str]:
    spec = job.spec
    path = spec.output.removeprefix("file://")
    if path != spec.output and world_size(spec.runtime) > 1 and not _is_mounted(job, path):
        yield (
            "spec.output: a file:// folder must be the same on every node; use s3://, or mount a"
            " shared volume by runtime.podOverrides"
        )
