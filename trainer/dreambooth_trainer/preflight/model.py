"""Checks whether the base model can be trained with the job's settings."""

from collections.abc import Iterator

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.training import Training
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.preflight.memory import adapted_modules
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError


def check_model(job: DreamBoothJob, config: ModelConfig, report: PreflightReport) -> None:
    """Check the resolution (in pixels) and the target modules of the adapters."""
    training = job.spec.training
    report.warnings += _unusual_resolution(config, training.resolution)
    with report.collecting():
        _check_resolution(config, training.resolution)
    with report.collecting():
        _check_targets(config, training)


def _unusual_resolution(config: ModelConfig, resolution: int) -> Iterator[str]:
    field, native = "spec.training.resolution", config.native_resolution
    if resolution >= 2 * native or 2 * resolution <= native:
        yield (
            f"{field}: {resolution} is far from {native}, which the model was trained at; use"
            f" {native}"
        )
    if resolution % (whole := config.vae_factor * config.unet_factor):
        better = _nearest_multiple(resolution, whole)
        yield (
            f"{field}: {resolution} is not a multiple of {whole}, which lowers the quality; use"
            f" {better}"
        )


def _check_resolution(config: ModelConfig, resolution: int) -> None:
    least = config.vae_factor * config.unet_factor
    if resolution % config.vae_factor or resolution < least:
        raise BadConfigError(
            f"spec.training.resolution: the model cannot take {resolution};"
            f" use a multiple of {least}, such as {_nearest_multiple(resolution, least)}"
        )


def _nearest_multiple(resolution: int, factor: int) -> int:
    return max(1, round(resolution / factor)) * factor


def _check_targets(config: ModelConfig, training: Training) -> None:
    if training.method != "lora":
        return
    unet = config.skeleton["unet"]
    unknown = [each for each in training.lora.targets if not adapted_modules(unet, (each,))]
    if unknown:
        raise BadConfigError(
            "spec.training.lora.targets: no module of the model's UNet is named"
            f" {', '.join(unknown)}; use its attention's to_q, to_k, to_v and to_out.0"
        )
