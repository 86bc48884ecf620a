"""The models on the device: one base model, and the adapters of many results."""

import gc
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

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
from dreambooth_trainer.models.tokens.names import learned_words
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.run.result import (
    exported_model,
    exports_adapters,
    read_result_config,
    with_defaults,
)
from dreambooth_trainer.serving.catalog import Catalog, Result


@dataclass(frozen=True)
class Loaded:
    """A result on the device."""

    family: Family
    job: ResolvedJob
    adapter: str | None
    """Peft's name of a LoRA that shares the base model with others."""
    was_loaded: bool
    """Whether it was there already."""


class LoadedModels:
    """Loads results when they are asked for. One thread alone may `load` and `weigh` them.

    LoRAs and DoRAs of one base model share it. Other results have a model of their own, those with
    learned words too: results would have other embeddings for one word.

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
        self.capacity = capacity
        self._base = base
        self._configs: dict[str, ModelConfig] = {}
        """Of base models with learned words, by both, as hundreds of results may share one; and of
        each whole model."""
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
        job = self._with_base(self._catalog.job(result))
        words = tuple(learned_words(job.spec.subjects))
        if exports_adapters(job):
            key = f"{job.spec.model.model_dump_json()} {words}"
        else:
            key = f"{result.export} {result.version}"
        if key not in self._configs:
            config = read_result_config(job.spec.model, self._storage, result.export)
            self._configs[key] = replace(config, words=words)
        config = self._configs[key]
        return with_defaults(job, config), config

    def load(self, result: Result) -> Loaded:
        """Load a result, unless it is there.

        Others that share its base model stay, up to the capacity; all others go.

        Raises:
            TrainerError: It cannot be loaded.
            StorageError: It cannot be read.
        """
        job, _ = self.describe(result)
        uri = result.export
        names = list_export(self._storage, uri)
        if not names:
            raise BadModelError(f"{uri}: the exported model is gone")
        adapters = adapter_files(names)
        if LORA_FILE not in adapters or job.spec.learns_tokens:
            return self._load_alone(result, job, adapters)
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
        return Loaded(self._family, job, self._adapters[wanted], was_loaded)

    @staticmethod
    def weigh(weights: Sequence[tuple[Loaded, float]]) -> None:
        """Make these results, with these weights of their adapters, those that images are made of.

        Raises:
            BadConfigError: A result has no adapters that its weight could be for.
        """
        family = weights[0][0].family
        names = [loaded.adapter for loaded, _ in weights]
        if None in names:
            [(_, weight)] = weights
            scale_adapters(family, weight)
        else:
            family.pipeline().set_adapters(names, [weight for _, weight in weights])

    def _with_base(self, job: DreamBoothJob) -> DreamBoothJob:
        if self._base is not None:
            layout = "single-file" if self._base.endswith(FILE_ENDINGS) else "diffusers"
            # What was merged into the base model, and how it reads prompts, stays.
            kept = job.spec.model.model_dump(exclude={"source", "layout", "revision", "variant"})
            given = {"source": self._base, "layout": layout}
            job.spec.model = Model.model_validate(kept | given)
        return job

    def _load_alone(self, result: Result, job: ResolvedJob, adapters: set[str]) -> Loaded:
        """A whole model, or one with what cannot be taken out again (LoKr, LoHa, words)."""
        uri = result.export
        model = job.spec.model if adapters else exported_model(result.export, job.spec.model)
        key = result.layout.root, result.version
        was_loaded = self._load_base(key, model, job)
        assert self._family is not None
        if adapters and not was_loaded:
            try:
                add_exported(self._family, self._storage, uri, adapters)
            except Exception:
                # Half a result would be served as if it were whole.
                self._family, self._key = None, None
                raise
        return Loaded(self._family, job, None, was_loaded)

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
        self._family = load_family(
            model,
            self._storage,
            ranks,
            self._device,
            job.spec.training,
            offload=job.spec.runtime.offload,
        )
        self._key = key
        return False

    def _add(self, result: Result, adapters: set[str]) -> None:
        assert self._family is not None
        while len(self._adapters) >= self.capacity:
            _, oldest = self._adapters.popitem(last=False)
            self._family.pipeline().delete_adapters(oldest)
        self._number += 1
        name = f"result{self._number}"
        try:
            with warnings.catch_warnings():
                # Several adapters in a model are what is wanted here.
                warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
                add_exported(self._family, self._storage, result.export, adapters, name)
        except Exception:
            # Half an adapter would change the images of others.
            with suppress(Exception):
                self._family.pipeline().delete_adapters(name)
            raise
        self._adapters[result.layout.root, result.version] = name
