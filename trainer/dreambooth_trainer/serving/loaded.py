"""The models on the device: one base model, and the adapters of many results."""

import gc
import warnings
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import torch

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.model import FILE_ENDINGS, Model
from dreambooth_storage import Storage
from dreambooth_trainer.export.load import (
    adapter_files,
    add_exported,
    list_export,
    scale_adapters,
)
from dreambooth_trainer.export.lora import LORA_FILE
from dreambooth_trainer.models import Family, load_family
from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.result import exported_model, resolve_with_config
from dreambooth_trainer.serving.catalog import Catalog, Result


@dataclass(frozen=True)
class Ready:
    """A result that can make images."""

    family: Family
    job: ResolvedJob
    was_loaded: bool
    """Whether it was there already."""


class LoadedModels:
    """Loads results when they are asked for. One thread alone may `use` them.

    LoRAs and DoRAs of one base model share it. Other results have a model of their own.

    Args:
        storage: Of results and models.
        catalog: Knows the results.
        device: Where models run.
        capacity: Adapters that stay loaded.
        base: Base model of all results; None: that of their jobs.
    """

    def __init__(
        self,
        storage: Storage,
        catalog: Catalog,
        device: torch.device,
        capacity: int,
        base: str | None = None,
    ) -> None:
        self._storage = storage
        self._catalog = catalog
        self._device = device
        self._capacity = capacity
        self._base = base
        self._described: dict[tuple[str, str], tuple[ResolvedJob, ModelConfig]] = {}
        self._family: Family | None = None
        self._key: object = None
        """What `_family` was loaded from."""
        self._adapters: OrderedDict[tuple[str, str], str] = OrderedDict()
        """Names of peft by result, the most recently used last."""
        self._number = 0

    def describe(self, result: Result) -> tuple[ResolvedJob, ModelConfig]:
        """The job of a result, with its model's defaults, and the model without weights.

        Raises:
            TrainerError: Its model cannot be used.
            StorageError: It cannot be read.
        """
        key = result.layout.root, result.version
        if key not in self._described:
            job = self._with_base(self._catalog.job(result))
            self._described[key] = resolve_with_config(job, self._storage)
        return self._described[key]

    def use(self, result: Result, weight: float) -> Ready:
        """Make a result the one that images are made of.

        Args:
            result: The result.
            weight: Of its adapters.

        Raises:
            TrainerError: It cannot be loaded, or has no adapters that the weight could be for.
            StorageError: It cannot be read.
        """
        job, _ = self.describe(result)
        uri = result.layout.export
        names = list_export(self._storage, uri)
        if not names:
            raise BadModelError(f"{uri}: the exported model is gone")
        adapters = adapter_files(names)
        if LORA_FILE not in adapters:
            return self._use_alone(result, job, adapters, weight)
        training = job.spec.training
        text = training.text_encoder.method
        key = (job.spec.model.model_dump_json(), training.precision, training.method, text)
        self._load_base(key, job.spec.model, job)
        assert self._family is not None
        wanted = result.layout.root, result.version
        was_loaded = wanted in self._adapters
        if not was_loaded:
            self._add(result, adapters)
        self._adapters.move_to_end(wanted)
        self._family.pipeline().set_adapters(self._adapters[wanted], weight)
        return Ready(self._family, job, was_loaded)

    def _with_base(self, job: DreamBoothJob) -> DreamBoothJob:
        if self._base is not None:
            layout = "single-file" if self._base.endswith(FILE_ENDINGS) else "diffusers"
            # What was merged into the base model, and how it reads prompts, stays.
            kept = job.spec.model.model_dump(exclude={"source", "layout", "revision", "variant"})
            given = {"source": self._base, "layout": layout}
            job.spec.model = Model.model_validate(kept | given)
        return job

    def _use_alone(
        self, result: Result, job: ResolvedJob, adapters: set[str], weight: float
    ) -> Ready:
        """A whole model, or one with adapters that cannot be taken out again (LoKr, LoHa)."""
        uri = result.layout.export
        model = job.spec.model if adapters else exported_model(result.layout, job.spec.model)
        key = result.layout.root, result.version
        was_loaded = self._load_base(key, model, job)
        assert self._family is not None
        if adapters and not was_loaded:
            add_exported(self._family, self._storage, uri, adapters)
        scale_adapters(self._family, weight)
        return Ready(self._family, job, was_loaded)

    def _load_base(self, key: object, model: Model, job: ResolvedJob) -> bool:
        """Load a model, in place of the one that is loaded; returns whether it was."""
        if self._key == key:
            return True
        # First: two models may not fit on the device.
        self._family, self._key = None, None
        self._adapters.clear()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        ranks = Ranks(Topology())
        self._family = load_family(model, self._storage, ranks, self._device, job.spec.training)
        self._key = key
        return False

    def _add(self, result: Result, adapters: set[str]) -> None:
        assert self._family is not None
        while len(self._adapters) >= self._capacity:
            _, oldest = self._adapters.popitem(last=False)
            self._family.pipeline().delete_adapters(oldest)
        self._number += 1
        name = f"result{self._number}"
        try:
            with warnings.catch_warnings():
                # Several adapters in a model are what is wanted here.
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                add_exported(self._family, self._storage, result.layout.export, adapters, name)
        except Exception:
            # Half an adapter would change the images of others.
            with suppress(Exception):
                self._family.pipeline().delete_adapters(name)
            raise
        self._adapters[result.layout.root, result.version] = name
