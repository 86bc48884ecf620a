"""Which encoders a job names, and whether they can score, without their weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from dreambooth_api.models.model import Model
from dreambooth_api.models.results.evaluation import Evaluation
from dreambooth_storage import Storage
from dreambooth_trainer.evaluation.preprocessing import Preprocessing, read_preprocessing
from dreambooth_trainer.models.source.fetch import open_files
from dreambooth_trainer.models.source.model_files import ModelFiles
from dreambooth_trainer.models.source.selection import find_transformers_weights
from dreambooth_trainer.models.source.weights import damaged_weights
from dreambooth_trainer.process.errors import BadModelError


@dataclass(frozen=True)
class Architecture:
    """A kind of model that can score."""

    name: str
    """As people know it."""
    config_class: Any
    model_class: Any
    vocabularies: tuple[str, ...] = ()
    """The files that its tokenizer's vocabulary may be in; empty: it encodes images alone."""

    def build(self, config: Any) -> nn.Module:
        """The model with random weights, on torch's default device."""
        model: nn.Module = self.model_class(config, **self.arguments)
        return model

    @property
    def arguments(self) -> dict[str, Any]:
        """What the model's class takes beside its configuration."""
        # The published DINO has no pooling layer: its weights would be random.
        return {"add_pooling_layer": False} if self.model_class is ViTModel else {}

    def encode(self, model: Any, pixels: Tensor) -> Tensor:
        """Vectors [N, D] of preprocessed images [N, 3, height, width]."""
        if self.vocabularies:
            output = model.get_image_features(pixel_values=pixels)
            # Transformers 5 wraps them in an output object.
            features: Tensor = getattr(output, "pooler_output", output)
            return features
        # The class token (Caron et al. 2021, section 3).
        token: Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
        return token


ARCHITECTURES = {
    "vit": Architecture("DINO", ViTConfig, ViTModel),
    "dinov2": Architecture("DINOv2", Dinov2Config, Dinov2Model),
    "dinov2_with_registers": Architecture(
        "DINOv2 with registers", Dinov2WithRegistersConfig, Dinov2WithRegistersModel
    ),
    "dinov3_vit": Architecture("DINOv3", DINOv3ViTConfig, DINOv3ViTModel),
    "clip": Architecture("CLIP", CLIPConfig, CLIPModel, ("vocab.json", "tokenizer.json")),
    "siglip": Architecture("SigLIP", SiglipConfig, SiglipModel, ("tokenizer.json",)),
}
"""By `model_type` in config.json. SigLIP 2 of a fixed resolution is of type siglip, too."""


@dataclass(frozen=True)
class EncoderSource:
    """An encoder as a job names it.

    Args:
        source: Where it is.
        field: The job's field that names it, for messages.
        reads_text: Whether it has to encode prompts, too.
    """

    source: str
    field: str
    reads_text: bool


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder without its weights."""

    architecture: Architecture
    config: Any
    """Of transformers."""
    preprocessing: Preprocessing


def encoder_sources(evaluation: Evaluation) -> tuple[EncoderSource, EncoderSource]:
    """The encoder of images, and the one of images and prompts."""
    named, field = evaluation.encoders, "spec.evaluation.encoders"
    preset = "spec.evaluation.preset"
    return (
        EncoderSource(evaluation.image_encoder, f"{field}.image" if named.image else preset, False),
        EncoderSource(evaluation.text_encoder, f"{field}.text" if named.text else preset, True),
    )


def read_encoder(encoder: EncoderSource, storage: Storage) -> EncoderConfig:
    """The configuration of an encoder that can be loaded; of its weights, headers are read.

    Raises:
        BadModelError: It cannot; the message lists every reason.
        StorageError: It cannot be reached.
    """
    files = open_files(Model(source=encoder.source), storage, encoder.field)
    problems: list[str] = []
    architecture = preprocessing = config = None
    try:
        architecture, config = _read_config(files, encoder.reads_text)
    except BadModelError as error:
        problems.append(_reason(error, files))
    try:
        preprocessing = _read_preprocessing(files)
    except BadModelError as error:
        problems.append(_reason(error, files))
    try:
        problems += damaged_weights(files, find_transformers_weights(files))
    except BadModelError as error:
        problems.append(_reason(error, files))
    if encoder.reads_text and architecture and not set(architecture.vocabularies) & files.names:
        problems.append(f"there is no {architecture.vocabularies[-1]}")
    if architecture and preprocessing:
        problems += _forward_problems(architecture, config, preprocessing)
    if problems or architecture is None or preprocessing is None:
        lines = [f"{encoder.field}: {encoder.source} cannot score:", *problems]
        raise BadModelError("\n  ".join(lines))
    return EncoderConfig(architecture, config, preprocessing)


def _reason(error: BadModelError, files: ModelFiles) -> str:
    return str(error).removeprefix(f"{files.field}: ")


def _read_config(files: ModelFiles, reads_text: bool) -> tuple[Architecture, Any]:
    values = files.json("config.json")
    kind = values.get("model_type")
    # Vision backbones cannot read prompts; CLIP and SigLIP can stand in for a backbone.
    usable = {
        name: each for name, each in ARCHITECTURES.items() if each.vocabularies or not reads_text
    }
    if not isinstance(kind, str) or kind not in usable:
        names = ", ".join(each.name for each in usable.values())
        raise BadModelError(f"it is a {kind} model; {names} can be used here")
    architecture = usable[kind]
    try:
        return architecture, architecture.config_class(**values)
    except Exception as error:  # damaged files make the libraries raise anything
        raise BadModelError(f"config.json describes no model: {_line(error)}") from error


def _read_preprocessing(files: ModelFiles) -> Preprocessing:
    # Transformers 5 writes another file than 4, and reads both.
    newer, older = "processor_config.json", "preprocessor_config.json"
    name = newer if newer in files.names else older
    try:
        return read_preprocessing(files.json(name))
    except (ValueError, AttributeError) as error:
        raise BadModelError(f"{name} cannot be followed: {_line(error)}") from error


def _forward_problems(
    architecture: Architecture, config: Any, preprocessing: Preprocessing
) -> list[str]:
    """Why the model takes no image, which its construction alone does not show."""
    try:
        # Without memory for weights.
        with torch.device("meta"), torch.no_grad():
            pixels = torch.empty(1, 3, *preprocessing.shape)
            architecture.encode(architecture.build(config), pixels)
    except Exception as error:  # damaged files make the libraries raise anything
        return [f"config.json describes no model that can be built: {_line(error)}"]
    return []


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
