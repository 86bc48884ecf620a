"""Settings that depend on the base model: its defaults, and what its family takes.

They have no default in the API, as no value suits every model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.models.optimizer import (
    OPTIMIZER_DEFAULTS,
    SCHEDULE_DEFAULTS,
    default_schedule,
)
from dreambooth_api.models.prior import Sampler
from dreambooth_api.parsing.messages import messages
from dreambooth_api.schema.base import ACCEPTED
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.resolved_job import ResolvedJob


@dataclass(frozen=True)
class ModelDefaults:
    """The defaults of a model, and what it takes instead; each family gives one.

    Args:
        resolution: Side in pixels of the images that the model was trained on.
        sampler: Of class images and samples.
        class_image_steps: Sampling steps of a class image.
        sample_steps: Sampling steps of a sample.
        guidance_scale: Of class images and samples.
        lora_targets: Ends of the names of the denoiser's modules that get an adapter.
        samplers: All that the model can be sampled with.
        max_guidance_scale: The largest that the model can be sampled with.
        takes_negative_prompt: Whether there is an unconditional half that a negative prompt can
            replace (Ho & Salimans 2022); not where guidance was distilled into the weights.
    """

    resolution: int
    sampler: Sampler
    class_image_steps: int
    sample_steps: int
    guidance_scale: float
    lora_targets: tuple[str, ...]
    samplers: tuple[Sampler, ...]
    max_guidance_scale: float = 50.0
    takes_negative_prompt: bool = True


PRIOR_LOSSES = {
    "prediction": {"weight": 4.0, "emptyPromptFraction": 0.5},
    "noise": {"weight": 1.0, "emptyPromptFraction": 0.0},
}
"""Defaults of `spec.prior` by its target: what was measured best, and the paper's."""

DENSITIES: Mapping[str, Mapping[str, float]] = {
    "uniform": {},
    "logit-normal": {"mean": 0.0, "std": 1.0},
    "mode": {"modeScale": 1.29},
}
"""What each density of `timestepSampling` takes: the best values of Esser et al. 2024, section
5.1."""


def fill_defaults(
    job: DreamBoothJob,
    defaults: ModelDefaults,
    flow_shift: Callable[[int], float | None] = lambda _resolution: None,
) -> ResolvedJob:
    """The job with its model's defaults for what it leaves open. Pure.

    Args:
        job: As its user wrote it.
        defaults: Of the model.
        flow_shift: Of the model, see `Family.flow_shift`; by default that of models of DDPM.

    Raises:
        BadModelError: A default, such as a native resolution of 8192, is no valid setting.
    """
    config = resolved(job)
    spec = config["spec"]
    training = spec["training"]
    sampling = {"sampler": defaults.sampler, "guidanceScale": defaults.guidance_scale}
    spec["prior"] = {
        **sampling,
        "steps": defaults.class_image_steps,
        **PRIOR_LOSSES[spec["prior"]["target"]],
        **spec["prior"],
    }
    spec["samples"] = {**sampling, "steps": defaults.sample_steps, **spec["samples"]}
    # An adapter that is trained further has modules of its own.
    if (
        training["lora"].get("targetPreset", "attention") == "attention"
        and "adapter" not in spec["model"]
    ):
        targets = training["lora"].get("targets", list(defaults.lora_targets))
        training["lora"] = {**training["lora"], "targets": targets}
        training["lora"].pop("targetPreset", None)  # the targets say it
    training = spec["training"] = {"resolution": defaults.resolution, **training}
    optimizer = training["optimizer"]
    training["optimizer"] = {**OPTIMIZER_DEFAULTS[optimizer["name"]], **optimizer}
    schedule = {"name": default_schedule(optimizer["name"]), **training["schedule"]}
    training["schedule"] = {**SCHEDULE_DEFAULTS.get(schedule["name"], {}), **schedule}
    shift = flow_shift(training["resolution"])
    # minSnrGamma with flow matching, and timestepSampling with DDPM, are refused by name: see
    # `check_objective`.
    if "timestepSampling" in training or (shift is not None and "minSnrGamma" not in training):
        training["timestepSampling"] = _timestep_sampling(training, shift or 1.0)
    try:
        return ResolvedJob.model_validate(config, context=ACCEPTED)
    except ValidationError as error:
        # The job was accepted, so it is a default that is not.
        lines = "".join(f"\n  {line}" for line in messages(error))
        raise BadModelError(
            f"spec.model: a default of the model cannot be trained with; set the field:{lines}"
        ) from error


def _timestep_sampling(training: Mapping[str, Any], shift: float) -> dict[str, Any]:
    """Density, what the density takes, and shift."""
    sampling = {"density": "logit-normal", "shift": shift, **training.get("timestepSampling", {})}
    return {**DENSITIES[sampling["density"]], **sampling}
