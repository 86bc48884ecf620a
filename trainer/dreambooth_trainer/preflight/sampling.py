"""Checks whether the base model can be sampled with the job's settings."""

from collections.abc import Iterator

from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.resolved_job import ResolvedJob, ResolvedPrior, ResolvedSamples


def sampling_problems(job: ResolvedJob, defaults: ModelDefaults) -> Iterator[str]:
    """Settings of class images and samples that the model does not take, one line each. Pure."""
    prior, samples = job.spec.prior, job.spec.samples
    if prior.enabled:
        yield from _problems("spec.prior", prior, defaults)
        # Noise as the target of guided predictions would undo the guidance.
        if (
            prior.empty_prompt_fraction
            and prior.target == "noise"
            and not defaults.takes_negative_prompt
        ):
            yield (
                "spec.prior.emptyPromptFraction: guidance was distilled into the model's weights,"
                " and target noise would undo it; set target to prediction, or the fraction to 0"
            )
    yield from _problems("spec.samples", samples, defaults)
    if samples.negative_prompt and not defaults.takes_negative_prompt:
        yield (
            "spec.samples.negativePrompt: the model takes none, as guidance was distilled into its"
            " weights; remove it"
        )


def unusual_sampling(job: ResolvedJob, family: Family) -> Iterator[str]:
    """Settings without effect, or against what the model was made for, one line each. Pure."""
    samples, prior = job.spec.samples, job.spec.prior
    takes_it, unguided = family.defaults.takes_negative_prompt, family.unguided_scale
    if family.defaults.guidance_scale <= unguided:
        for path, scale in (
            *([("spec.prior", prior.guidance_scale)] if prior.enabled else []),
            ("spec.samples", samples.guidance_scale),
        ):
            # Above the largest it is an error.
            if unguided < scale <= family.defaults.max_guidance_scale:
                yield (
                    f"{path}.guidanceScale: the model was distilled to be sampled without guidance"
                    f" (got {scale:g}), with which its images are worse; remove it"
                )
    if samples.negative_prompt and takes_it and samples.guidance_scale <= family.unguided_scale:
        yield (
            "spec.samples.negativePrompt: has no effect without guidance, at a guidanceScale of"
            f" {samples.guidance_scale:g}; use one above {family.unguided_scale:g}, such as"
            f" {family.defaults.guidance_scale:g}, or remove it"
        )


def _problems(
    path: str, settings: ResolvedPrior | ResolvedSamples, defaults: ModelDefaults
) -> Iterator[str]:
    if settings.sampler not in defaults.samplers:
        yield (
            f"{path}.sampler: the model cannot be sampled with {settings.sampler};"
            f" use {' or '.join(defaults.samplers)}, or remove it"
        )
    if settings.guidance_scale > defaults.max_guidance_scale:
        yield (
            f"{path}.guidanceScale: the model takes at most {defaults.max_guidance_scale:g} (got"
            f" {settings.guidance_scale:g}); use {defaults.guidance_scale:g}, or remove it"
        )
