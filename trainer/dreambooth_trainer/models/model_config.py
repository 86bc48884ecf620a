"""The configuration of a base model, read and checked without its weights."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.models.defaults import ModelDefaults
from dreambooth_trainer.models.fetch import open_files
from dreambooth_trainer.models.model_files import FIELD, JsonObject, ModelFiles
from dreambooth_trainer.models.scheduler import SCHEDULER_CONFIG, load_scheduler
from dreambooth_trainer.models.selection import find_files, raise_problems
from dreambooth_trainer.models.single_file import (
    config_files,
    load_tokenizer,
    read_architecture,
)
from dreambooth_trainer.models.stable_diffusion import DEFAULTS
from dreambooth_trainer.models.weights import damaged_file, damaged_weights
from dreambooth_trainer.process.errors import BadModelError

PARTS = ("unet", "vae", "text_encoder")

# Bounds of plausible numbers in a configuration; Stable Diffusion has 49,408 tokens at most.
MAX_LAYERS = 100
MAX_VALUE = 10_000_000
LAYER_SETTINGS = ("layers", "layers_per_block")
"""Suffixes of the names of settings that count layers."""


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a Stable Diffusion model in the diffusers layout."""

    unet: JsonObject
    vae: JsonObject
    text_encoder: JsonObject
    tokenizer: CLIPTokenizer

    @property
    def vae_factor(self) -> int:
        """Pixels per cell of the latent, along one side: 8 in Stable Diffusion."""
        # Every level but the first halves the resolution.
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def unet_factor(self) -> int:
        """Latent cells per cell of the UNet's coarsest level, along one side: 8 in SD 1 and 2."""
        return int(2 ** (len(self.unet["block_out_channels"]) - 1))

    @property
    def native_resolution(self) -> int:
        """Size, in pixels along one side, of the images that the model was trained on."""
        return int(self.unet["sample_size"]) * self.vae_factor

    @property
    def defaults(self) -> ModelDefaults:
        """What a job that leaves it to the model is trained and sampled with."""
        return replace(DEFAULTS, resolution=self.native_resolution)

    @cached_property
    def skeleton(self) -> dict[str, nn.Module]:
        """The parts by name, on the meta device: shapes without memory for weights.

        Raises:
            Exception: Anything, from the libraries, for a configuration that is damaged.
        """
        return self.build_modules()

    def build_modules(self) -> dict[str, nn.Module]:
        """The parts by name, built anew on the meta device; raises as `skeleton` does."""
        with torch.device("meta"):
            return {
                "unet": UNet2DConditionModel.from_config(dict(self.unet)),
                "vae": AutoencoderKL.from_config(dict(self.vae)),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**self.text_encoder)),
            }

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, including the start and end tokens."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids)


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
    configs, unreadable = _configs(files)
    problems += unreadable
    for weights in selection.weights.values():
        problems += damaged_weights(files, weights)
    if SCHEDULER_CONFIG in files.sizes:
        try:
            load_scheduler(files)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
    if not problems:
        problems += [*_absurd_values(configs), *_mismatched_parts(configs)]
    raise_problems(model, FIELD, problems)
    config = ModelConfig(**configs, tokenizer=_tokenizer(model, files))
    _check_skeleton(model, config)
    return config


def _read_single_file(model: Model, files: ModelFiles) -> ModelConfig | None:
    [name] = files.names
    if problem := damaged_file(files, name):
        raise BadModelError(f"{FIELD}: {model.source} {problem}")
    architecture = read_architecture(files)
    return read_shipped_config(architecture) if architecture else None


def read_shipped_config(architecture: str) -> ModelConfig:
    """The configuration of single files of an architecture; it comes with the project."""
    configs, _ = _configs(config_files(architecture))
    return ModelConfig(**configs, tokenizer=load_tokenizer(architecture))


def _check_skeleton(model: Model, config: ModelConfig) -> None:
    try:
        assert config.skeleton  # builds it; it is kept for later checks
    except Exception as error:  # damaged files make the libraries raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadModelError(
            f"{FIELD}: the configuration of {model.source} describes no model that can be built"
            f" ({reason}); copy it again"
        ) from error


def _configs(files: ModelFiles) -> tuple[dict[str, JsonObject], list[str]]:
    """Each part's configuration, and why those that are there cannot be read."""
    configs: dict[str, JsonObject] = {}
    problems: list[str] = []
    for part in PARTS:
        if (name := f"{part}/config.json") not in files.sizes:
            continue
        try:
            configs[part] = files.json(name)
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
    return configs, problems


def _absurd_values(configs: Mapping[str, JsonObject]) -> list[str]:
    """Implausible numbers: building such a model would take all time or memory."""
    problems = []
    for part, config in configs.items():
        for name, value in config.items():
            largest = MAX_LAYERS if name.endswith(LAYER_SETTINGS) else MAX_VALUE
            # "not <=" also catches NaN.
            numbers = [n for n in _flatten(value) if isinstance(n, (int, float))]
            if any(not abs(n) <= largest for n in numbers) or len(numbers) > MAX_LAYERS:
                problems.append(f"{part}/config.json: {name} is {str(value)[:40]}; copy it again")
    if not isinstance(configs["unet"].get("sample_size"), int):
        problems.append("unet/config.json: sample_size is not an integer; copy it again")
    return problems


def _flatten(value: Any) -> Iterator[Any]:
    """The values of nested lists."""
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _mismatched_parts(configs: Mapping[str, JsonObject]) -> list[str]:
    """Why the parts do not make up a model that can be trained."""
    unet, vae, text = (configs[part] for part in PARTS)
    problems = []
    if unet.get("in_channels") != vae.get("latent_channels"):
        problems.append(
            f"its UNet reads {unet.get('in_channels')} channels and its VAE makes"
            f" {vae.get('latent_channels')}; inpainting and depth models cannot be trained"
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        problems.append(
            f"its UNet expects text of width {unet.get('cross_attention_dim')} and its text encoder"
            f" makes {text.get('hidden_size')}"
        )
    return problems


def _tokenizer(model: Model, files: ModelFiles) -> CLIPTokenizer:
    names = [name for name in files.names if re.fullmatch(r"tokenizer/[\w-]+\.(json|txt)", name)]
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        for name in names:
            (Path(folder) / Path(name).name).write_bytes(files.read(name))
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the libraries raise anything
            raise BadModelError(
                f"{FIELD}: the tokenizer of {model.source} cannot be loaded; copy its folder again"
            ) from error
    return tokenizer
