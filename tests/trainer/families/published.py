"""The published models of the corpus, without weights."""

from functools import lru_cache

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.model_config import (
    ModelConfig,
    read_model_config,
    read_shipped_config,
)
from dreambooth_trainer.models.published import PublishedModel
from dreambooth_trainer.models.registry import FAMILIES
from dreambooth_trainer.models.single_file.architectures import ARCHITECTURES
from tests.corpus.families import registry
from tests.trainer.families.conftest import build

PIPELINES = {module.FACTS.pipeline: name for name, module in registry.FAMILIES.items()}
"""Names of the corpus by pipeline."""
SHIPPED = {"StableDiffusionPipeline": "sd1"}
"""Architectures whose published configuration is that which comes with the trainer."""
CONFIGURED = [name for name in FAMILIES if name in PIPELINES or name in SHIPPED]


@lru_cache(maxsize=1)
def published_config(pipeline: str) -> ModelConfig:
    """The configuration of `described(pipeline)`, with the tokenizers of its tiny model."""
    if architecture := SHIPPED.get(pipeline):
        return read_shipped_config(ARCHITECTURES[architecture])
    name = PIPELINES[pipeline]
    tiny = read_model_config(Model(source=str(build(name))), Storage(StorageSettings()))
    assert tiny is not None
    module = registry.FAMILIES[name]
    parts = {part: each.config for part, each in module.PARTS.items()}
    settings = {key: module.INDEX[key] for key in tiny.settings}
    return ModelConfig(tiny.family, parts, tiny.tokenizers, tiny.scheduler, settings)


def described(pipeline: str) -> PublishedModel:
    """The entry of the model whose configuration is in the corpus, which comes first."""
    return FAMILIES[pipeline].published[0]
