"""CLIP's text encoder, whose modules' names differ between versions of transformers."""

from typing import Any

from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection


def text_model(encoder: nn.Module) -> Any:
    """The module that has the layers."""
    return getattr(encoder, "text_model", encoder)  # a level less from transformers 5.6 on


def exported_name(module: nn.Module, name: str) -> str:
    """The name of a weight (or a module) of a part of the pipeline in exported files."""
    is_clip = isinstance(module, (CLIPTextModel, CLIPTextModelWithProjection))
    return with_text_model(name) if is_clip else name


def with_text_model(name: str) -> str:
    """The name of a CLIP text encoder's weight that every version of transformers loads.

    Transformers 5 writes the names without the level `text_model`. It reads both forms, while
    version 4 would initialise the weights randomly, with only a warning.
    """
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
