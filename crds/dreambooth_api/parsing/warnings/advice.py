"""Warnings about settings that are valid and probably not meant; none of them stops the job."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.spec import Spec
from dreambooth_api.parsing.warnings.foreign_prompts import foreign_prompts
from dreambooth_api.parsing.warnings.idle_settings import idle_settings
from dreambooth_api.parsing.warnings.unusual_rates import unusual_rates
from dreambooth_api.schema.names import has_identifier, is_same_folder, lower_ascii

# So few are memorized like the subject's own images, and no longer stand for the class.
FEW_PRIOR_IMAGES = 16
# A cosine of one or two steps has its peak alone, and stays a constant rate.
MIN_CYCLE_STEPS = 10
MODEL_FIELDS = (
    "spec.model.source",
    "spec.evaluation.encoders.image",
    "spec.evaluation.encoders.text",
    "spec.captioning.model.source",
)
SIZE_FIELDS = ("memory", "ephemeral-storage", "gpuMemory", "shmSize")
BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)([mk]?)")
"""A quantity (apimachinery resource.Quantity) of so few bytes that its unit was forgotten."""
FEW_BYTES = {"": 2**20, "k": 2**20 / 1000, "m": 2**20 * 1000}
"""1 MiB, by unit."""
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
    return [
        *_subjects(spec),
        *_prompts(spec),
        *foreign_prompts(spec),
        *_prior(spec),
        *_captioning(spec),
        *unusual_rates(spec.training),
        *idle_settings(spec),
        *_training(spec),
        *_evaluation(spec),
        *_sizes(spec),
        *_output(job),
    ]


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
    for path, text in _texts(field, value):
        # Only a model may also be a path without a scheme: a prompt may begin with a slash.
        is_path = text.startswith("/") and path in MODEL_FIELDS
        if is_path or text.startswith("file:///"):
            yield path, text.removeprefix("file://")


def _texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Fields at and below a value that hold text, and the text."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _texts(f"{field}.{name}", child)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _texts(f"{field}[{index}]", child)
    elif isinstance(value, str):
        yield field, value


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
        for other, earlier in enumerate(spec.subjects[:index]):
            if is_same_folder(subject.images, earlier.images):
                yield (
                    f"spec.subjects[{index}].images: are those of subjects[{other}], so that both"
                    " words come to mean the same; name another folder"
                )


def _prompts(spec: Spec) -> Iterator[str]:
    """Prompts without an identifier; one about the class alone is a useful comparison."""
    prompts = spec.samples.prompts
    generic = [
        prompt
        for prompt in prompts
        if not any(has_identifier(prompt, subject.identifier) for subject in spec.subjects)
    ]
    if prompts and len(generic) == len(prompts) and not spec.samples.auto_prompts:
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
    if spec.training.method == "textual-inversion":
        return
    if not prior.enabled or prior.weight == 0:
        remedies = {"set enabled to true": not prior.enabled, "remove weight": prior.weight == 0}
        yield (
            "spec.prior: without it the model forgets the class and overfits sooner;"
            f" {' and '.join(remedy for remedy, is_due in remedies.items() if is_due)}"
        )
    elif prior.target == "noise" and prior.count < FEW_PRIOR_IMAGES:
        yield f"spec.prior.count: {prior.count} class images are few; 100 to 1000 are usual"
    if prior.enabled and not prior.prompts:
        yield from _class_is_named("spec.prior.prompt", prior.prompt, spec)
    for index, prompt in enumerate(prior.prompts if prior.enabled else ()):
        yield from _class_is_named(f"spec.prior.prompts[{index}]", prompt, spec)
    prompts = len(prior.prompts) + (prior.auto_prompts or 0)
    if prior.enabled and 0 < prior.count < prompts:
        yield (
            f"spec.prior.prompts: {prior.count} class images use the first {prior.count} of"
            f" {prompts} prompts; raise count"
        )


def _class_is_named(field: str, prompt: str, spec: Spec) -> Iterator[str]:
    """Without {class}, one word of the class will do: a rule wants {class} for several classes."""
    noun = spec.subjects[0].class_noun
    named = any(word in lower_ascii(prompt) for word in lower_ascii(noun).split())
    if "{class}" not in prompt and not named:
        yield f"{field}: does not name the class, {noun!r}; write {{class}} for it"


def _captioning(spec: Spec) -> Iterator[str]:
    captioning = spec.captioning
    if captioning is None:
        return
    if not spec.has_auto and not captioning.photo_check:
        yield (
            "spec.captioning: has nothing to do; set captions: auto of a subject, autoPrompts of"
            " samples or prior, or captioning.photoCheck, or remove it"
        )
    elif captioning.endpoint is not None and spec.shows_images:
        yield (
            f"spec.captioning.endpoint.url: the subjects' images are sent to"
            f" {captioning.endpoint.url}; remove endpoint to keep them in the pods"
        )


def _training(spec: Spec) -> Iterator[str]:
    training = spec.training
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
    every = spec.samples.every
    if every is not None and every >= training.steps:
        yield (
            f"spec.samples.every: samples every {every} steps mean none between the first and the"
            f" last, at {training.steps}; lower it, or remove it"
        )


def _evaluation(spec: Spec) -> Iterator[str]:
    evaluation, steps = spec.evaluation, spec.training.steps
    if evaluation is None or evaluation.every is None:
        return
    # The last step is always scored, and is not one of them.
    before_the_end = (steps - 1) // evaluation.every
    early = evaluation.early_stopping
    if before_the_end == 0:
        yield (
            f"spec.evaluation.every: an evaluation every {evaluation.every} steps means none before"
            f" the end, at {steps}; lower it, or remove it"
        )
    elif early is not None and early.patience >= before_the_end:
        yield (
            f"spec.evaluation.earlyStopping.patience: training cannot end early, with"
            f" {before_the_end} evaluation(s) before its last step; lower it, or evaluation.every"
        )


def _sizes(spec: Spec) -> Iterator[str]:
    """Sizes of less than 1 MiB: a number without a unit is bytes."""
    runtime = spec.runtime.model_dump(mode="json", by_alias=True, exclude_none=True)
    for field, text in _texts("spec.runtime", runtime):
        found = BYTES.fullmatch(text) if field.endswith(SIZE_FIELDS) else None
        if found is not None and 0 < float(found[1]) < FEW_BYTES[found[2]]:
            unit = "Gi" if float(found[1]) < 1000 else "Mi"
            yield f"{field}: {text} is less than 1 MiB; write the unit, as in {found[1]}{unit}"


def _output(job: DreamBoothJob) -> Iterator[str]:
    spec = job.spec
    path = spec.output.removeprefix("file://")
    if path != spec.output and spec.runtime.nodes > 1 and not _is_mounted(job, path):
        yield (
            "spec.output: a file:// folder must be the same on every node; use s3://, or mount a"
            " shared volume by runtime.podOverrides"
        )
