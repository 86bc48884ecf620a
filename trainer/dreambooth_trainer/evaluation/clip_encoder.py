"""Embeddings of images and texts by CLIP (Radford et al. 2021)."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dreambooth_trainer.evaluation.clip_config import FIELD
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadModelError

CHUNK = 32
"""Images per forward pass, which bounds the memory of a large evaluation."""


class ClipEncoder:
    """A CLIP model from a folder in the transformers layout.

    Raises:
        BadModelError: The folder holds no CLIP model that can be loaded.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the libraries raise anything
            raise BadModelError(
                f"{FIELD}: this is no CLIP model that can be loaded: {error}"
            ) from error
        self._model = model.to(device)
        self._device = device

    @torch.no_grad()
    def images(self, images: Iterable[Image.Image]) -> Tensor:
        """Unit vectors [N, D] of N images (Radford et al. 2021, section 2.3)."""
        parts, rest = [], iter(images)
        while chunk := list(islice(rest, CHUNK)):
            heartbeat.send()
            pixels = self._processor(chunk, return_tensors="pt")
            parts.append(_features(self._model.get_image_features(**pixels.to(self._device))))
        return normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, D] of N texts, each truncated to the model's 77 tokens.

        Source: Radford et al. 2021, section 2.3.
        """
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        features = _features(self._model.get_text_features(**tokens.to(self._device)))
        return normalize(features, dim=-1)


def _features(output: Any) -> Tensor:
    """The projected features [N, D]; transformers 5 wraps them in an output object."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
