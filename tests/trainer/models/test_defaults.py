"""What a job leaves to its model, filled in."""

from dataclasses import replace
from typing import Any

import pytest

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_trainer.data.prior.class_image_cache import ClassImageRecipe
from dreambooth_trainer.models.defaults import ModelDefaults, fill_defaults
from dreambooth_trainer.models.families.stable_diffusion import DEFAULTS
from dreambooth_trainer.preflight.sampling import sampling_problems
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.resume.fingerprint import fingerprint
from tests.trainer.resolved import resolve

DISTILLED = ModelDefaults(
    resolution=1024, sampler="euler", class_image_steps=9, sample_steps=9, guidance_scale=0,
    lora_targets=("to_q",), samplers=("euler",), max_guidance_scale=1, takes_negative_prompt=False,
)  # fmt: skip
EXPLICIT = {
    "prior": {
        "sampler": "dpm-solver++", "steps": 20, "guidanceScale": 7.5,
        "emptyPromptFraction": 0.5, "weight": 4.0,
    },
    "samples": {"sampler": "dpm-solver++", "steps": 25, "guidanceScale": 7.5},
    "training": {
        "resolution": 512,
        "lora": {"targets": ["to_q", "to_k", "to_v", "to_out.0"]},
        "optimizer": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    },
}  # fmt: skip
"""What the API gave every job while it knew Stable Diffusion 1.5 and AdamW alone, and the prior
loss, which depends on the target."""


def a_job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "test"},
        "spec": {
            "model": {"source": "/model"},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
            "output": "file:///out",
            **spec,
        },
    }


def parsed(**spec: Any) -> DreamBoothJob:
    return DreamBoothJob.model_validate(a_job(**spec))


def test_a_model_fills_what_a_job_leaves_open() -> None:
    spec = fill_defaults(parsed(), DISTILLED).spec
    for settings in (spec.prior, spec.samples):
        assert (settings.sampler, settings.steps, settings.guidance_scale) == ("euler", 9, 0)
    assert spec.training.resolution == 1024
    assert spec.training.lora.targets == ["to_q"]


def test_what_a_job_sets_wins() -> None:
    training = {**EXPLICIT["training"], "schedule": {"name": "constant"}}
    settings = {**EXPLICIT, "training": training, "evaluation": {"count": 8}}
    filled = fill_defaults(parsed(**settings), DISTILLED)
    given = parsed(**settings)
    assert filled.model_dump() == given.model_dump()


def test_numbers_of_the_optimizer_are_its_own() -> None:
    lion = fill_defaults(parsed(training={"optimizer": {"name": "lion"}}), DISTILLED)
    found = lion.spec.training.optimizer
    assert (found.beta1, found.beta2, found.epsilon) == (0.9, 0.99, None)


FLOW = {
    "density": "logit-normal", "mean": 0.0, "std": 1.0, "shift": 3.0,
}  # fmt: skip
"""Of a job without `timestepSampling`, for a model whose shift is 3 at 768 pixels."""


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        (None, FLOW),
        ({"mean": 0.5, "shift": 1}, {**FLOW, "mean": 0.5, "shift": 1.0}),
        ({"density": "uniform"}, {"density": "uniform", "shift": 3.0}),
        ({"density": "mode"}, {"density": "mode", "modeScale": 1.29, "shift": 3.0}),
    ],
)
def test_the_noise_levels_of_flow_matching_are_part_of_the_job(
    given: dict[str, Any] | None, filled: dict[str, Any]
) -> None:
    training = {"resolution": 768, **({"timestepSampling": given} if given else {})}
    job = fill_defaults(parsed(training=training), DEFAULTS, lambda pixels: pixels / 256)
    assert resolved(job)["spec"]["training"]["timestepSampling"] == filled
    other = fill_defaults(parsed(training=training), DEFAULTS, lambda _: 7.0)
    assert (fingerprint(job) == fingerprint(other)) == bool(given and "shift" in given)
    assert fill_defaults(job, DEFAULTS, lambda _: 7.0) == job
    # Of DDPM there are none to fill in.
    assert fill_defaults(parsed(), DEFAULTS).spec.training.timestep_sampling is None


def test_a_filled_job_stays_as_it_is() -> None:
    filled = fill_defaults(parsed(), DEFAULTS)
    assert fill_defaults(filled, DISTILLED) == filled


def test_states_and_class_images_of_earlier_versions_are_still_those_of_the_job() -> None:
    """The API had these values as its own defaults; the key is from that time."""
    job, explicit = resolve(a_job()), resolve(a_job(**EXPLICIT))
    assert fingerprint(job) == fingerprint(explicit)
    key = ClassImageRecipe.of(job, "a photo of a mug", "ab" * 32).key()
    assert key == "1fecd96dba2dd941a3f99f048f10e34c"


def test_a_native_resolution_that_cannot_be_trained_at_must_be_set() -> None:
    odd = replace(DEFAULTS, resolution=4096)
    with pytest.raises(BadModelError) as refused:
        fill_defaults(parsed(), odd)
    assert str(refused.value).splitlines() == [
        "spec.model: a default of the model cannot be trained with; set the field:",
        "  spec.training.resolution: must be at most 2048 (got 4096); lower it",
    ]
    assert fill_defaults(parsed(training={"resolution": 1024}), odd)


def test_sampling_that_the_model_does_not_take_is_refused_by_field() -> None:
    prior = {"sampler": "ddim", "guidanceScale": 2}
    samples = {"sampler": "pndm", "guidanceScale": 1, "negativePrompt": "blurry"}
    job = fill_defaults(parsed(prior=prior, samples=samples), DISTILLED)
    assert list(sampling_problems(job, DISTILLED)) == [
        "spec.prior.sampler: the model cannot be sampled with ddim; use euler, or remove it",
        "spec.prior.guidanceScale: the model takes at most 1 (got 2); use 0, or remove it",
        "spec.samples.sampler: the model cannot be sampled with pndm; use euler, or remove it",
        "spec.samples.negativePrompt: the model takes none, as guidance was distilled into its"
        " weights; remove it",
    ]
    assert not list(sampling_problems(job, DEFAULTS))


def test_noise_is_no_target_of_guided_predictions() -> None:
    noise = {"guidanceScale": 0, "target": "noise", "emptyPromptFraction": 0.5}
    samples = {"guidanceScale": 1}
    job = fill_defaults(parsed(prior=noise, samples=samples), DISTILLED)
    [line] = sampling_problems(job, DISTILLED)
    assert line.startswith("spec.prior.emptyPromptFraction: guidance was distilled")
    assert not list(sampling_problems(job, DEFAULTS))
    for change in ({"target": "prediction"}, {"emptyPromptFraction": 0}):
        job = fill_defaults(parsed(prior=noise | change, samples=samples), DISTILLED)
        assert not list(sampling_problems(job, DISTILLED))


def test_the_prior_loss_depends_on_the_target() -> None:
    """`target: noise` alone is the paper's loss, with models of distilled guidance too."""
    for prior, fraction, weight in (
        ({}, 0.5, 4.0),
        ({"target": "prediction"}, 0.5, 4.0),
        ({"target": "noise"}, 0.0, 1.0),
        ({"target": "noise", "emptyPromptFraction": 0.5}, 0.5, 1.0),
        ({"emptyPromptFraction": 0, "weight": 2}, 0.0, 2.0),
    ):
        resolved = resolve(a_job(prior=prior)).spec.prior
        assert resolved.empty_prompt_fraction == fraction
        assert resolved.weight == weight
    samples = {"guidanceScale": 1}
    job = fill_defaults(parsed(prior={"target": "noise"}, samples=samples), DISTILLED)
    assert not list(sampling_problems(job, DISTILLED))


def test_class_images_that_are_not_generated_need_no_sampler() -> None:
    job = fill_defaults(parsed(prior={"enabled": False, "sampler": "ddim"}), DISTILLED)
    assert not list(sampling_problems(job, DISTILLED))
