"""Random models in the published diffusers layout."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

Config = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A model within a pipeline.

    `config` is its config.json as published; `tiny` is what differs in the tests' models, all else
    stays. `shards` is the number of files in which its weights are published.
    """

    class_name: str
    config: Config
    tiny: Config
    shards: int = 1

    @property
    def library(self) -> Any:
        """The package that the class comes from."""
        return diffusers if "_class_name" in self.config else transformers


def write_pipeline(
    folder: Path,
    index: Config,
    parts: Mapping[str, Part],
    scheduler: Config,
    vocabularies: Mapping[str, int],
    seed: int,
) -> None:
    """Write everything but the tokenizers; text encoders read vocabularies of the sizes given."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "model_index.json", index)
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    generator = torch.Generator().manual_seed(seed)
    for name, part in parts.items():
        config = merge(part.config, part.tiny)
        if name in vocabularies:
            set_vocabulary(config, vocabularies[name])
        model = build_model(part, config)
        randomize(model, generator)
        model.save_pretrained(folder / name)
        write_json(folder / name / "config.json", config)
        if part.shards > 1:
            [weights] = (folder / name).glob("*.safetensors")
            split_weights(weights, part.shards)


def merge(config: Config, changes: Config) -> Config:
    """A configuration with other values, in the configurations inside it too."""
    return config | {
        name: merge(config[name], value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }


def set_vocabulary(config: Config, size: int) -> None:
    """Set the size of a text encoder's vocabulary wherever its configuration has one."""
    for values in (config, config.get("text_config", {})):
        if "vocab_size" in values:
            values["vocab_size"] = size


def build_model(part: Part, config: Config) -> nn.Module:
    """A model of a configuration; with the library's initial weights."""
    cls = getattr(part.library, part.class_name)
    if part.library is diffusers:
        return cls.from_config(config)
    return cls(cls.config_class(**config))


@torch.no_grad()
def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Give all weights random values, those too that start at zero, or normalize nothing.

    Matrices preserve the scale of their input; what is added is small; factors are near one.
    """

    def normal(weight: torch.Tensor, mean: float, deviation: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * deviation + mean)

    embeddings = {each.weight for each in model.modules() if isinstance(each, nn.Embedding)}
    for weight in model.parameters():
        if weight in embeddings:
            normal(weight, 0, 1)
        elif weight.ndim > 1:
            frames = weight.shape[2] if weight.ndim == 5 else 1  # of which images fill one
            normal(weight, 0, (weight[0].numel() / frames) ** -0.5)
        else:
            normal(weight, weight.mean().round().item(), 0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            normal(buffer, 0, 0.3)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def split_weights(path: Path, shards: int) -> None:
    """Write a file of weights as several, with an index."""
    weights = load_file(path)
    path.unlink()
    names, places = sorted(weights), {}
    for number in range(shards):
        shard = f"{path.stem}-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, path.with_name(shard), {"format": "pt"})
        places |= dict.fromkeys(part, shard)
    size = sum(value.nbytes for value in weights.values())
    write_json(
        path.with_name(f"{path.name}.index.json"),
        {"metadata": {"total_size": size}, "weight_map": places},
    )


def write_json(path: Path, value: Config) -> None:
    """Write a JSON file as the libraries do."""
    path.write_text(json.dumps(value, indent=2) + "\n")
