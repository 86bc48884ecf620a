"""Every family is complete, as CONTRIBUTING.md asks, and docs/models.md says what it does."""

import re

import pytest

from dreambooth_api.codegen.files import REPOSITORY
from dreambooth_trainer.codegen.generate import generated
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.registry import FAMILIES
from tests.corpus.families import registry
from tests.trainer.families.published import PIPELINES, PUBLISHED, published_config
from tests.trainer.families.test_target import WIDE

WITHOUT_A_BUILDER = {"StableDiffusionPipeline": "tests/trainer/conftest.py builds it"}
NOT_REGISTERED = {
    "Lumina2Pipeline": "its transformer takes the lengths of captions as numbers",
    "QwenImage21Pipeline": "its images depend on the longest prompt of their batch",
}
"""Tiny models of pipelines that cannot be trained, and why."""

each_family = pytest.mark.parametrize(("pipeline", "family"), FAMILIES.items(), ids=str)


@each_family
def test_a_family_is_complete(pipeline: str, family: type[Family]) -> None:
    assert family.pipeline_class.__name__ == pipeline
    assert family.name
    assert family.card_tag
    assert family.published, "docs/models.md needs a model to begin with"
    assert pipeline in PIPELINES or pipeline in WITHOUT_A_BUILDER, "no tests/corpus/families/*.py"
    assert pipeline in WIDE or pipeline in WITHOUT_A_BUILDER, "test_target.WIDE does not name it"
    assert not family.other_pipelines.keys() & FAMILIES.keys()


@each_family
def test_published_models_are_named_as_on_the_hub(pipeline: str, family: type[Family]) -> None:
    for model in family.published:
        assert re.fullmatch(r"hf://[\w.-]+/[\w.-]+", model.source)
        assert model.license.name == model.license.name.lower()
    sources = [model.source for each in FAMILIES.values() for model in each.published]
    assert len(sources) == len(set(sources))


def test_every_builder_is_of_a_family_or_has_a_reason() -> None:
    assert PIPELINES.keys() - FAMILIES.keys() <= NOT_REGISTERED.keys()


@pytest.mark.parametrize("source", PUBLISHED)
def test_what_is_published_is_what_the_family_makes_of_it(source: str) -> None:
    model, family = PUBLISHED[source], published_config(source).skeleton
    defaults = family.defaults
    assert (model.resolution, model.steps, model.guidance_scale, model.sampler) == (
        defaults.resolution,
        defaults.sample_steps,
        defaults.guidance_scale,
        defaults.sampler,
    )
    assert family.training_notes == ([model.note] if model.note else [])
    assert family.denoiser.num_parameters() / 1e9 == pytest.approx(model.parameters, abs=0.051)


@each_family
def test_the_corpus_describes_the_model_to_begin_with(pipeline: str, family: type[Family]) -> None:
    if pipeline not in WITHOUT_A_BUILDER:
        facts = registry.FAMILIES[PIPELINES[pipeline]].FACTS
        assert family.published[0].source == f"hf://{facts.repository}"
        assert family.published[0].license.name == facts.license.lower().replace(" ", "-")


def test_the_page_is_up_to_date() -> None:
    for path, text in generated().items():
        assert (REPOSITORY / path).read_text() == text, f"{path}: run `make generate`"
