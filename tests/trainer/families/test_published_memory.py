"""docs/models.md and docs/recipes.md state the memory that preflight estimates."""

from dataclasses import fields, replace
from typing import Any

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing import yamljson
from dreambooth_trainer.codegen.recipes import RECIPES, Recipe, choose_recipe
from dreambooth_trainer.codegen.recipes_page import COLUMNS
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.models.published import GpuMemory
from dreambooth_trainer.preflight.memory.stages import GIB, OVERHEAD, measure_stages
from tests.docs.test_examples import JOB
from tests.trainer.families.published import PUBLISHED, published_config

QLORA = Recipe(
    "qlora",
    "qlora",
    "Of docs/models.md alone.",
    "model:\n  source: {source}\n  quantization: {{denoiser: nf4, textEncoders: int8}}\n"
    "training:\n  method: lora\n",
)
MEASURED = {recipe.memory: recipe for recipe in (*RECIPES, QLORA)}


def settings(recipe: Recipe, source: str) -> dict[str, Any]:
    """A job by the recipe, in bf16."""
    (parts,) = yamljson.documents(recipe.settings.format(source=source))
    assert isinstance(parts, dict)
    training = parts["training"] | {"precision": "bf16"}
    return {**JOB, "spec": JOB["spec"] | parts | {"training": training}}  # type: ignore[operator]


def measure(config: ModelConfig, recipe: Recipe, source: str) -> float:
    """GiB of the largest stage, with the overhead, for one image and one class image."""
    job = DreamBoothJob.model_validate(settings(recipe, source))
    stages = measure_stages(
        fill_defaults(job, config.defaults, config.skeleton.flow_shift),
        config,
        local_batch=2,
        ranks=recipe.gpus,
    )
    return round((max(stages.values()) + OVERHEAD) / GIB, 1)


@pytest.mark.slow
# As on a GPU; it says that a norm in fp32 is not fused.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("source", PUBLISHED)
def test_the_memory_of_published_models(source: str) -> None:
    config, model = published_config(source), PUBLISHED[source]
    stated = model.memory or GpuMemory(0, 0, 0, 0)
    found = GpuMemory(
        **{
            name: measure(config, recipe, source)
            for name, recipe in MEASURED.items()
            if getattr(stated, name) is not None
        }
    )
    for name in MEASURED:
        expected = getattr(stated, name)
        assert getattr(found, name) == pytest.approx(expected, rel=0.01, abs=0.1), found
    for size, gpus in COLUMNS:
        recipe = choose_recipe(model, size, gpus)
        assert choose_recipe(replace(model, memory=found), size, gpus) is recipe, f"{size} {found}"


def test_every_figure_belongs_to_a_recipe() -> None:
    assert {field.name for field in fields(GpuMemory)} == MEASURED.keys()
