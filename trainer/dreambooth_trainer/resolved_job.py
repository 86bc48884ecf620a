"""A job with its model's defaults: what may be unset in the API has a value here."""

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.models.optimizer import Schedule, ScheduleName
from dreambooth_api.models.prior import (
    EmptyPromptFraction,
    Prior,
    PriorWeight,
    Sampler,
    SamplingSteps,
)
from dreambooth_api.models.spec import Spec
from dreambooth_api.models.storage import Samples
from dreambooth_api.models.training import (
    Resolution,
    Shift,
    TimestepSampling,
    Training,
)
from dreambooth_api.schema.base import GuidanceScale


class ResolvedPrior(Prior):
    """`spec.prior` with the model's defaults, and that of its target."""

    weight: PriorWeight
    empty_prompt_fraction: EmptyPromptFraction
    sampler: Sampler
    steps: SamplingSteps
    guidance_scale: GuidanceScale


class ResolvedSamples(Samples):
    """`spec.samples` with the model's defaults."""

    sampler: Sampler
    steps: SamplingSteps
    guidance_scale: GuidanceScale


class ResolvedTimestepSampling(TimestepSampling):
    """`spec.training.timestepSampling` with the model's shift, and all that its density takes."""

    shift: Shift


class ResolvedSchedule(Schedule):
    """`spec.training.schedule` with a name, and all that it takes."""

    name: ScheduleName


class ResolvedTraining(Training):
    """`spec.training` with the model's defaults."""

    resolution: Resolution
    schedule: ResolvedSchedule
    timestep_sampling: ResolvedTimestepSampling | None = None
    """None for models of DDPM."""


class ResolvedSpec(Spec):
    """`spec` with the model's defaults."""

    prior: ResolvedPrior
    samples: ResolvedSamples
    training: ResolvedTraining


class ResolvedJob(DreamBoothJob):
    """A job with the model's defaults: what the trainer trains, and run.json records.

    `models.defaults.fill_defaults` makes one.
    """

    spec: ResolvedSpec


def sample_settings(job: ResolvedJob) -> dict[str, object]:
    """The settings that samples depend on, without those that are fixed in a run."""
    samples = resolved(job)["spec"]["samples"]
    return {"samples": {name: value for name, value in samples.items() if name != "every"}}
