"""Checks whether the base model can be trained with the job's settings."""

import re
from collections.abc import Iterator

from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.adapters import adapter_problems
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.preflight.sampling import sampling_problems, unusual_sampling
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedTraining

DISTILLED_NAME = re.compile(r"turbo|lightning|schnell|hyper|flash|lcm|dmd", re.IGNORECASE)
"""In the names of models that were distilled to few sampling steps."""


def check_model(job: ResolvedJob, config: ModelConfig, report: PreflightReport) -> None:
    """Check the resolution (in pixels), what is trained, and the sampling."""
    training = job.spec.training
    report.warnings += _unusual_resolution(config, training.resolution)
    notes = config.skeleton.training_notes or _notes_on_name(job.spec.model.source)
    report.warnings += [f"spec.model.source: {note}" for note in notes]
    with report.collecting():
        _check_resolution(config, training.resolution)
    for side in training.lower_resolutions or ():
        with report.collecting():
            _check_lower_resolution(config, side, training.resolution)
    report.errors += map(BadConfigError, adapter_problems(config, training))
    with report.collecting():
        _check_text_encoder(config, training)
    with report.collecting():
        _check_clip_skip(config)
    with report.collecting():
        _check_precision(config, training)
    report.errors += map(BadConfigError, sampling_problems(job, config.defaults))
    report.warnings += unusual_sampling(job, config.skeleton)


def _check_clip_skip(config: ModelConfig) -> None:
    most = config.skeleton.max_clip_skip
    if config.clip_skip == 1 or config.clip_skip <= most:
        return
    remedy = f"set it to {most} or less" if most > 1 else "remove it"
    raise BadConfigError(
        f"spec.model.clipSkip: {config.clip_skip} is more than this model"
        f" ({config.family.name}) allows, {most}; {remedy}"
    )


def _notes_on_name(source: str) -> list[str]:
    """What becomes of distillation that no configuration shows, as of SD 3.5 large turbo."""
    if not DISTILLED_NAME.search(source.rstrip("/").rsplit("/", 1)[-1]):
        return []
    return [
        "its name says that the model was distilled to few steps, which training undoes: train the"
        " model that it was made from, and use the LoRA with this one"
    ]


def _unusual_resolution(config: ModelConfig, resolution: int) -> Iterator[str]:
    field, native = "spec.training.resolution", config.skeleton.native_resolution
    if is_far(resolution, native):
        yield (
            f"{field}: {resolution} is far from {native}, which the model was trained at; use"
            f" {native}"
        )
    whole = config.skeleton.resolution_step
    if resolution % whole and not _is_refused(config, resolution):
        better = _nearest_multiple(resolution, whole)
        yield (
            f"{field}: {resolution} is not a multiple of {whole}, which lowers the quality; use"
            f" {better}"
        )


def is_far(side: int, native: int) -> bool:
    """Whether images of a side, in pixels, are unlike those of another one. Pure."""
    return side >= 2 * native or 2 * side <= native


def _check_resolution(config: ModelConfig, resolution: int) -> None:
    if _is_refused(config, resolution):
        least = config.skeleton.resolution_step
        raise BadConfigError(
            f"spec.training.resolution: {config.family.name} cannot take {resolution};"
            f" use a multiple of {least}, such as {_nearest_multiple(resolution, least)}"
        )


def _check_lower_resolution(config: ModelConfig, side: int, resolution: int) -> None:
    field, step = "spec.training.lowerResolutions", config.skeleton.resolution_step
    if side >= resolution:  # that of the model, or the job would have been refused before
        raise BadConfigError(
            f"{field}: {side} is not below the model's resolution, {resolution}; remove it, or set"
            " training.resolution"
        )
    if _is_refused(config, side):
        raise BadConfigError(
            f"{field}: {config.family.name} cannot take {side};"
            f" use a multiple of {step}, such as {_nearest_multiple(side, step)}"
        )


def _is_refused(config: ModelConfig, resolution: int) -> bool:
    family = config.skeleton
    return bool(resolution % family.side_multiple) or resolution < family.resolution_step


def _nearest_multiple(resolution: int, factor: int) -> int:
    return max(1, round(resolution / factor)) * factor


def _check_text_encoder(config: ModelConfig, training: ResolvedTraining) -> None:
    if training.text_encoder.method != "frozen" and not config.family.trains_text:
        raise BadConfigError(
            f"spec.training.textEncoder.method: the text encoders of {config.family.name} cannot be"
            f" trained (got {training.text_encoder.method}); use frozen, or remove it"
        )


def _check_precision(config: ModelConfig, training: ResolvedTraining) -> None:
    # Language models were trained in bf16, and their states exceed what fp16 can hold.
    if training.precision == "fp16" and not config.family.trains_text:
        raise BadConfigError(
            f"spec.training.precision: the text encoders of {config.family.name} overflow in fp16;"
            " use bf16, or fp32 on GPUs without bf16"
        )
