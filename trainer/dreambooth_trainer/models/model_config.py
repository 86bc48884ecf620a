"""The configuration of a base model, read and checked without its weights."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage
from dreambooth_trainer.models.family import PREDICTION_TYPES
from dreambooth_trainer.models.fetch import FIELD
from dreambooth_trainer.models.load import check_parts
from dreambooth_trainer.models.model_files import (
    WEIGHTS_SUFFIX,
    JsonObject,
    ModelFiles,
    open_files,
)
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

    @cached_property
    def skeleton(self) -> dict[str, nn.Module]:
        """The parts by name, on the meta device: shapes without memory for weights.

        Raises:
            Exception: Anything, from the libraries, for a configuration that is damaged.
        """
        with torch.device("meta"):
            return {
                "unet": UNet2DConditionModel.from_config(dict(self.unet)),
                "vae": AutoencoderKL.from_config(dict(self.vae)),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**self.text_encoder)),
            }

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, including the start and end tokens."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids)


def read_model_config(model: Model, storage: Storage) -> ModelConfig:
    """The configuration of a model in the diffusers layout.

    Raises:
        BadModelError: It cannot be trained; the message lists every reason.
        StorageError: It cannot be reached.
    """
    files = open_files(model, storage)
    _check_family(model, files)
    configs, problems = _configs(files)
    problems += _missing_weights(model, files)
    problems += _missing_tokenizer(files)
    problems += _unknown_prediction(files)
    if not problems:
        problems += [*_absurd_values(configs), *_mismatched_parts(configs)]
    if problems:
        raise BadModelError("\n  ".join([f"{FIELD}: {model.source} cannot be trained:", *problems]))
    config = ModelConfig(**configs, tokenizer=_tokenizer(model, files))
    _check_skeleton(model, config)
    return config


def _check_skeleton(model: Model, config: ModelConfig) -> None:
    try:
        assert config.skeleton  # builds it; it is kept for later checks
    except Exception as error:  # damaged files make the libraries raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadModelError(
            f"{FIELD}: the configuration of {model.source} describes no model that can be built"
            f" ({reason}); copy it again"
        ) from error


def _check_family(model: Model, files: ModelFiles) -> None:
    if "model_index.json" not in files.names:
        raise BadModelError(
            f"{FIELD}: {model.source} has no model_index.json; name the folder that holds it,"
            " or set spec.model.layout to single-file"
        )
    check_parts(model, files.json("model_index.json"))


def _configs(files: ModelFiles) -> tuple[dict[str, JsonObject], list[str]]:
    """Each part's configuration, and why others cannot be read."""
    configs: dict[str, JsonObject] = {}
    problems: list[str] = []
    for part in PARTS:
        try:
            configs[part] = files.json(f"{part}/config.json")
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
    return configs, problems


def _missing_weights(model: Model, files: ModelFiles) -> list[str]:
    infix = f".{model.variant}." if model.variant else "."
    kind = f"of the variant {model.variant!r} (spec.model.variant) " if model.variant else ""
    return [
        f"there are no weights {kind}in {part}/"
        for part in PARTS
        if not any(
            name.startswith(f"{part}/") and infix in name and name.endswith(WEIGHTS_SUFFIX)
            for name in files.names
        )
    ]


def _missing_tokenizer(files: ModelFiles) -> list[str]:
    """Why there is no vocabulary: transformers would build an empty tokenizer without a warning."""
    vocabularies = {"tokenizer/vocab.json", "tokenizer/tokenizer.json"}
    return [] if vocabularies & files.names else ["there is no tokenizer/vocab.json"]


def _unknown_prediction(files: ModelFiles) -> list[str]:
    name = "scheduler/scheduler_config.json"
    if name not in files.names:
        return [f"{name} is missing; copy the whole model"]
    try:
        prediction = files.json(name).get("prediction_type", "epsilon")
    except BadModelError as error:
        return [str(error).removeprefix(f"{FIELD}: ")]
    if prediction in PREDICTION_TYPES:
        return []
    return [f"it predicts {prediction!r}; only {' and '.join(PREDICTION_TYPES)} can be trained"]


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
