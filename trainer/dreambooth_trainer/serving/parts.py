"""What the server is made of."""

from dataclasses import dataclass

import torch

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.serving.catalog import Catalog
from dreambooth_trainer.serving.engine.engine import Engine
from dreambooth_trainer.serving.engine.loaded import LoadedModels
from dreambooth_trainer.serving.metrics import ServingMetrics
from dreambooth_trainer.serving.settings import ServingSettings


@dataclass(frozen=True)
class Parts:
    """What the routes use."""

    settings: ServingSettings
    storage: Storage
    catalog: Catalog
    models: LoadedModels
    engine: Engine
    metrics: ServingMetrics


def make_parts(settings: ServingSettings) -> Parts:
    """The parts of a server, on a GPU where there is one."""
    storage = Storage(StorageSettings.of(settings.storage))
    catalog = Catalog(storage, settings.root.rstrip("/"), settings.refresh_seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = LoadedModels(storage, catalog, device, settings.adapters, settings.base)
    metrics = ServingMetrics()
    engine = Engine(models, settings.queued_images, metrics)
    return Parts(settings, storage, catalog, models, engine, metrics)
