"""The model that a job asks: in its own pods, or behind an endpoint."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch

from dreambooth_api.contract import environment
from dreambooth_api.models.captioning import Captioning, CaptioningEndpoint
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.captioning.models.interface import VisionLanguageModel
from dreambooth_trainer.captioning.models.local import FIELD, LocalModel
from dreambooth_trainer.captioning.models.own import PROCESSOR, WEIGHTS, is_own
from dreambooth_trainer.models.source.fetch import fetch, fetched
from dreambooth_trainer.models.source.selection import select_transformers_files
from dreambooth_trainer.process.distributed import Ranks


@contextmanager
def open_model(
    captioning: Captioning,
    storage: Storage,
    ranks: Ranks,
    device: torch.device,
    base: Model | None = None,
) -> Iterator[VisionLanguageModel]:
    """The model, which takes memory of the device within the context alone. Collective.

    Args:
        captioning: `spec.captioning`.
        storage: Of the model.
        ranks: Those of the job.
        device: This rank's.
        base: `spec.model`, whose own vision-language model may be meant.

    Raises:
        BadModelError: It cannot be loaded.
        StorageError: It cannot be read.
    """
    if captioning.endpoint:
        model = _reach(captioning.endpoint, ranks)
    else:
        model = _load(captioning, storage, ranks, device, base)
    with closing(model):
        yield model


def _reach(endpoint: CaptioningEndpoint, ranks: Ranks) -> VisionLanguageModel:
    # Imported here: its client takes a second, and few jobs ask a server.
    from dreambooth_trainer.captioning.models.endpoint import EndpointModel

    # The key is not kept in the model's name or in a message.
    return EndpointModel(
        endpoint, os.environ.get(environment.OPENAI_API_KEY), ranks.topology.world_size
    )


def _load(
    captioning: Captioning, storage: Storage, ranks: Ranks, device: torch.device, base: Model | None
) -> VisionLanguageModel:
    local = captioning.local_model
    assert local is not None
    if base is not None and is_own(local, base):
        folder = fetch(base, storage, ranks)  # which stays: the base model is loaded next
        return LocalModel(folder / WEIGHTS, base.source, device, processor=folder / PROCESSOR)
    model = Model(source=local.source, revision=local.revision)
    with fetched(model, storage, ranks, FIELD, select_transformers_files) as folder:
        return LocalModel(folder, model.source, device)
