"""Jobs and settings with the defaults of Stable Diffusion 1.5, as preflight fills them in."""

from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedTraining


def resolve(job: dict[str, Any]) -> ResolvedJob:
    return fill_defaults(DreamBoothJob.model_validate(job), DEFAULTS)


def resolve_training(training: dict[str, Any]) -> ResolvedTraining:
    lora = {"targets": list(DEFAULTS.lora_targets), **training.get("lora", {})}
    return ResolvedTraining.model_validate(
        {"resolution": DEFAULTS.resolution, **training, "lora": lora}, by_name=True
    )
