"""The configuration of a base model, read and checked without its weights."""

import copy
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreambooth_api.models.model import Model, Quantization
from dreambooth_storage import Storage
from dreambooth_trainer.models.adapters.exported import LoadedAdapter
from dreambooth_trainer.models.adapters.trainable import weight_dtypes
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.quantization.apply import quantize_part
from dreambooth_trainer.models.scheduler import SCHEDULER_CONFIG, load_scheduler
from dreambooth_trainer.models.single_file.architectures import Architecture
from dreambooth_trainer.models.single_file.load import read_architecture
from dreambooth_trainer.models.single_file.shipped import config_files, load_shipped_parts
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.model_files import FIELD, JsonObject, ModelFiles
from dreambooth_trainer.models.source.selection import (
    find_family,
    find_files,
    library_of,
    pipeline_settings,
    raise_problems,
    tokenizer_files,
)
from dreambooth_trainer.models.source.weights import damaged_file, damaged_weights
from dreambooth_trainer.models.tokens.learn import add_words
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.resolved_job import ResolvedTraining

# Bounds of plausible numbers in a configuration. The largest are bases of rotary embeddings.
MAX_LAYERS = 100
MAX_VALUE = 10_000_000_000
LAYER_SETTINGS = ("layers", "layers_per_block", "depth")
"""Suffixes of the names of settings that count layers."""


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a model in the diffusers layout."""

    family: type[Family]
    configs: Mapping[str, JsonObject]
    """Of the parts with weights, by their folders."""
    tokenizers: Mapping[str, Any]
    scheduler: Any
    settings: JsonObject
    """Of the pipeline, from model_index.json."""
    start: LoadedAdapter | None = None
    """The adapter that is trained further, on the meta device."""
    clip_skip: int = 1
    """`spec.model.clipSkip`."""
    words: tuple[LearnedWord, ...] = ()
    """Those that are learned, where the family can."""

    @property
    def defaults(self) -> ModelDefaults:
        """What a job that leaves it to the model is trained and sampled with."""
        return self.skeleton.defaults

    @cached_property
    def skeleton(self) -> Family:
        """The model on the meta device: shapes without memory for weights.

        Raises:
            Exception: Anything, from the libraries, for a configuration that is damaged.
        """
        return self.build()

    def build(
        self, training: ResolvedTraining | None = None, quantization: Quantization | None = None
    ) -> Family:
        """The model, built anew on the meta device; raises as `skeleton` does.

        Its weights have the precision that `training` keeps them in, by default all are fp32, or
        the format of `spec.model.quantization`.
        """
        parts = {}
        with torch.device("meta"):
            for part, module in self.family.modules.items():
                config = dict(self.configs[part])
                parts[part] = (
                    module.from_config(config)
                    if library_of(module) == "diffusers"
                    else module(module.config_class(**config))
                )
            for part, dtype in weight_dtypes(self.family, training).items():
                nn.Module.to(parts[part], dtype)  # diffusers' own method logs a warning
                quantize_part(self.family, part, parts[part], quantization, torch.device("meta"))
        tokenizers = copy.deepcopy(self.tokenizers) if self.words else self.tokenizers
        parts |= {**tokenizers, "scheduler": self.scheduler, **self.settings}
        family = self.family(self.family.assemble(parts), "")
        if self.words:
            add_words(family, self.words)
        family.start = self.start
        family.clip_skip = self.clip_skip
        return family


def read_model_config(model: Model, storage: Storage) -> ModelConfig | None:
    """The configuration of a model; None for a .ckpt file, which shows its own when it is loaded.

    Raises:
        BadModelError: It cannot be trained; the message lists every reason.
        StorageError: It cannot be reached.
    """
    files = open_files(model, storage)
    if model.layout == "single-file":
        return _read_single_file(model, files)
    selection, problems = find_files(model, files)
    family = find_family(model, files)
    configs, unreadable = _configs(family, files)
    problems += unreadable
    for weights in selection.weights.values():
        problems += damaged_weights(files, weights)
    scheduler = None
    if SCHEDULER_CONFIG in files.sizes:
        try:
            scheduler = load_scheduler(files, family.objective_kind)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
    if not problems:
        problems += [*_absurd_values(configs), *family.find_mismatches(configs)]
    raise_problems(model, FIELD, problems)
    tokenizers = {
        part: _tokenizer(model, files, part, tokenizer)
        for part, tokenizer in family.tokenizers.items()
    }
    settings = pipeline_settings(family, files)
    clip_skip = model.clip_skip or 1
    config = ModelConfig(family, configs, tokenizers, scheduler, settings, clip_skip=clip_skip)
    _check_skeleton(model, config)
    return config


def _read_single_file(model: Model, files: ModelFiles) -> ModelConfig | None:
    [name] = files.names
    if problem := damaged_file(files, name):
        raise BadModelError(f"{FIELD}: {model.source} {problem}")
    architecture = read_architecture(files)
    if architecture is None:
        return None
    return replace(read_shipped_config(architecture), clip_skip=model.clip_skip or 1)


def read_shipped_config(architecture: Architecture) -> ModelConfig:
    """The configuration of single files of an architecture; it comes with the project."""
    family, files = architecture.family, config_files(architecture)
    configs, _ = _configs(family, files)
    others = load_shipped_parts(architecture)
    tokenizers = {part: others.pop(part) for part in family.tokenizers}
    return ModelConfig(family, configs, tokenizers, others.pop("scheduler"), others)


def _check_skeleton(model: Model, config: ModelConfig) -> None:
    try:
        assert config.skeleton  # builds it; it is kept for later checks
    except Exception as error:  # damaged files make the libraries raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadModelError(
            f"{FIELD}: the configuration of {model.source} describes no model that can be built"
            f" ({reason}); copy it again"
        ) from error


def _configs(family: type[Family], files: ModelFiles) -> tuple[dict[str, JsonObject], list[str]]:
    """Each part's configuration, and why those that are there cannot be read."""
    configs: dict[str, JsonObject] = {}
    problems: list[str] = []
    for part in family.modules:
        if (name := f"{part}/config.json") not in files.sizes:
            continue
        try:
            configs[part] = files.json(name)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
            continue
        if quantization := configs[part].get("quantization_config"):
            method = quantization.get("quant_method") if isinstance(quantization, dict) else None
            problems.append(
                f"the weights in {part}/ are quantized ({method}), and such weights cannot be"
                " trained; name the model with its original weights"
            )
    return configs, problems


def _absurd_values(configs: Mapping[str, JsonObject]) -> Iterator[str]:
    """Implausible numbers: building such a model would take all time or memory."""
    for part, config in configs.items():
        for name, values in _settings(config):
            largest = MAX_LAYERS if name.endswith(LAYER_SETTINGS) else MAX_VALUE
            # "not <=" also catches NaN.
            numbers = [each for each in values if isinstance(each, (int, float))]
            if any(not abs(each) <= largest for each in numbers) or len(numbers) > MAX_LAYERS:
                yield f"{part}/config.json: {name} is {str(values)[:40]}; copy it again"


def _settings(config: JsonObject) -> Iterator[tuple[str, list[Any]]]:
    """Names and values of a configuration, those of nested objects (as `text_config`) too."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value)
        else:
            yield name, list(_flatten(value))


def _flatten(value: Any) -> Iterator[Any]:
    """The values of nested lists."""
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _tokenizer(model: Model, files: ModelFiles, part: str, tokenizer: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        for name in tokenizer_files(files, part):
            (Path(folder) / Path(name).name).write_bytes(files.read(name))
        try:
            return tokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the libraries raise anything
            raise BadModelError(
                f"{FIELD}: the {part} of {model.source} cannot be loaded; copy its folder again"
            ) from error
