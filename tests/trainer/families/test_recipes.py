"""Recipes: the best settings that fit a GPU, in jobs that preflight accepts."""

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_trainer.codegen.recipes import RECIPES, Recipe, choose_recipe
from dreambooth_trainer.models.defaults import fill_defaults
from dreambooth_trainer.models.published import APACHE, GpuMemory, PublishedModel
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.preflight.resources import check_memory
from tests.docs.test_examples import check_job
from tests.trainer.families.published import published_config
from tests.trainer.families.test_published_memory import settings

MODEL = PublishedModel(
    "hf://owner/model", APACHE, 2, 1024, 20, 4.5,
    memory=GpuMemory(
        lora=40, full=70, lora_checkpointed=20, full_checkpointed=60, lora_int8=14, lora_nf4=11,
        lora_nf4_text=7, lora_nf4_offload=5, full_sharded=30,
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "gpus", "name"),
    [
        (80, 1, "full"),
        (69, 1, "full-checkpointed"),
        (48, 1, "lora"),
        (24, 1, "lora-checkpointed"),
        (16, 1, "lora-int8"),
        (12, 1, "lora-nf4"),
        (8, 1, "lora-nf4-text"),
        (6, 1, "lora-nf4-offload"),
        (80, 8, "full"),
        (69, 8, "full-checkpointed"),  # gradients of 2 billion weights, 7.5 GiB, stay allocated
        (60, 8, "full-fsdp"),
    ],
)
def test_the_first_recipe_that_fits_is_chosen(size: int, gpus: int, name: str) -> None:
    recipe = choose_recipe(MODEL, size, gpus)
    assert recipe is not None
    assert recipe.name == name


def test_what_needs_more_than_the_gpu_has_does_not_fit() -> None:
    assert choose_recipe(MODEL, 4) is None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_a_job_that_the_crd_and_the_models_accept(recipe: Recipe) -> None:
    check_job(settings(recipe, "hf://owner/model"))


def test_preflight_agrees_about_the_smallest_gpu() -> None:
    """On Stable Diffusion 1.5, whose recipe for 8 GB is the one that any user can try."""
    model = FAMILIES["StableDiffusionPipeline"].published[0]
    recipe = choose_recipe(model, 8)
    assert recipe is not None
    document = settings(recipe, model.source)
    document["spec"]["runtime"] = {"gpuMemory": "8Gi"}
    config = published_config(model.source)
    job = DreamBoothJob.model_validate(document)
    resolved = fill_defaults(job, config.defaults, config.skeleton.flow_shift)
    assert check_memory(resolved, config, []) == []
