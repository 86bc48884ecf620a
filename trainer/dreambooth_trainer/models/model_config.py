"""What is known of a base model without its weights: configuration, tokenizer, names of files."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import HfApi
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, join
from dreambooth_trainer.models.fetch import FIELD, HUB_ERRORS, hub_error
from dreambooth_trainer.models.load import check_parts
from dreambooth_trainer.process.errors import BadModelError

PARTS = ("unet", "vae", "text_encoder")
WEIGHTS = ".safetensors"
LAYERS = ("layers", "layers_per_block")
"""Ends of the names of settings that count layers."""
MOST_LAYERS = 100
MOST = 10_000_000
PREDICTIONS = ("epsilon", "v_prediction")

Config = Mapping[str, Any]


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder: the names of its files, and how to read a small one."""

    field: str
    """Of the job, that names the model."""
    names: frozenset[str]
    read: Callable[[str], bytes]

    def json(self, name: str) -> Config:
        """A JSON file's object. Raises `BadModelError`."""
        if name not in self.names:
            raise BadModelError(f"{self.field}: {name} is missing; copy the whole model")
        try:
            content = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise BadModelError(
                f"{self.field}: {name} is not JSON ({error}); copy it again"
            ) from error
        if not isinstance(content, dict):
            raise BadModelError(f"{self.field}: {name} holds no JSON object; copy it again")
        return content


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a Stable Diffusion model in the diffusers layout."""

    unet: Config
    vae: Config
    text_encoder: Config
    tokenizer: CLIPTokenizer

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def unet_factor(self) -> int:
        """Latents per cell of the UNet's coarsest level, along one side."""
        return int(2 ** (len(self.unet["block_out_channels"]) - 1))

    @property
    def native_resolution(self) -> int:
        """Pixels along one side of the images that the model was made for."""
        return int(self.unet["sample_size"]) * self.vae_factor

    @cached_property
    def skeleton(self) -> dict[str, nn.Module]:
        """The parts by name, with shapes but without memory for weights."""
        with torch.device("meta"):
            return {
                "unet": UNet2DConditionModel.from_config(dict(self.unet)),
                "vae": AutoencoderKL.from_config(dict(self.vae)),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**self.text_encoder)),
            }

    def count_tokens(self, text: str) -> int:
        """How many tokens the text encoder would have to read, with begin and end."""
        return len(self.tokenizer(text, truncation=False, verbose=False).input_ids)


def read_model_config(model: Model, storage: Storage) -> ModelConfig:
    """The config of a model in the diffusers layout.

    Raises `BadModelError` with all that is wrong with it, and `StorageError` when it cannot be
    reached.
    """
    files = open_files(model, storage)
    _check_family(model, files)
    configs, problems = _configs(files)
    problems += [*_missing_weights(model, files), *_missing_tokenizer(files)]
    if not problems:
        problems += [*_unbelievable(configs), *_unfit(configs)]
    if problems:
        raise BadModelError("\n  ".join([f"{FIELD}: {model.source} cannot be trained:", *problems]))
    config = ModelConfig(**configs, tokenizer=_tokenizer(model, files))
    _check_skeleton(model, config)
    return config


def _check_skeleton(model: Model, config: ModelConfig) -> None:
    try:
        assert config.skeleton
    except Exception as error:  # configurations are wrong in every way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadModelError(
            f"{FIELD}: the configuration of {model.source} describes no model that can be built"
            f" ({reason}); copy it again"
        ) from error


def open_files(model: Model, storage: Storage, field: str = FIELD) -> ModelFiles:
    """The model's folder in storage, on this machine, or on the hub."""
    if model.source.startswith("hf://"):
        return _on_hub(model, field)
    uri = f"file://{model.source}" if model.source.startswith("/") else model.source
    names = frozenset(item.relative for item in storage.list(uri, field=field))
    if not names:
        raise BadModelError(
            f"{field}: there is nothing at {model.source}; correct it, or copy the model"
        )
    return ModelFiles(field, names, lambda name: storage.read(join(uri, name), field=field))


def _on_hub(model: Model, field: str) -> ModelFiles:
    name, api = model.source.removeprefix("hf://"), HfApi()

    def read(file: str) -> bytes:
        path = api.hf_hub_download(name, file, revision=model.revision)
        return Path(path).read_bytes()

    try:
        found = api.list_repo_files(name, revision=model.revision)
    except HUB_ERRORS as error:
        raise hub_error(model, field, error) from error
    return ModelFiles(field, frozenset(found), read)


def _check_family(model: Model, files: ModelFiles) -> None:
    if "model_index.json" not in files.names:
        raise BadModelError(
            f"{FIELD}: {model.source} has no model_index.json; name the folder that holds it,"
            " or set spec.model.layout to single-file"
        )
    check_parts(model, files.json("model_index.json"))


def _configs(files: ModelFiles) -> tuple[dict[str, Config], list[str]]:
    """Each part's configuration, and what hinders reading the others."""
    configs: dict[str, Config] = {}
    problems: list[str] = []
    for part in PARTS:
        try:
            configs[part] = files.json(f"{part}/config.json")
        except BadModelError as error:
            problems.append(str(error).removeprefix(f"{FIELD}: "))
    return configs, problems


def _missing_weights(model: Model, files: ModelFiles) -> list[str]:
    mark = f".{model.variant}." if model.variant else "."
    what = f"of the variant {model.variant!r} (spec.model.variant) " if model.variant else ""
    return [
        f"there are no weights {what}in {part}/"
        for part in PARTS
        if not any(
            name.startswith(f"{part}/") and mark in name and name.endswith(WEIGHTS)
            for name in files.names
        )
    ]


def _missing_tokenizer(files: ModelFiles) -> list[str]:
    """Without a vocabulary transformers makes a tokenizer that knows no word, and says nothing."""
    either = {"tokenizer/vocab.json", "tokenizer/tokenizer.json"}
    return [] if either & files.names else ["there is no tokenizer/vocab.json"]


def _unbelievable(configs: Mapping[str, Config]) -> list[str]:
    """Numbers that no model has: building from them would take for ever, or all memory."""
    problems = []
    for part, config in configs.items():
        for name, value in config.items():
            most = MOST_LAYERS if name.endswith(LAYERS) else MOST
            numbers = [n for n in _flat(value) if isinstance(n, (int, float))]
            if any(not abs(n) <= most for n in numbers) or len(numbers) > MOST_LAYERS:
                problems.append(f"{part}/config.json: {name} is {str(value)[:40]}; copy it again")
    if not isinstance(configs["unet"].get("sample_size"), int):
        problems.append("unet/config.json: sample_size is no whole number; copy it again")
    return problems


def _flat(value: Any) -> Iterator[Any]:
    """The values of lists in lists."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _unfit(configs: Mapping[str, Config]) -> list[str]:
    """Why parts that are there do not make a model that can be trained."""
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
    wanted = [name for name in files.names if re.fullmatch(r"tokenizer/[\w-]+\.(json|txt)", name)]
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as folder:
        for name in wanted:
            (Path(folder) / Path(name).name).write_bytes(files.read(name))
        try:
            tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # files are wrong in every way
            raise BadModelError(
                f"{FIELD}: the tokenizer of {model.source} cannot be loaded; copy its folder again"
            ) from error
    return tokenizer
