"""Vectors of images and texts by the encoders of a job.

Sources: DINO (Caron et al. 2021), DINOv2 (Oquab et al. 2023), DINOv3 (Siméoni et al. 2025), CLIP
(Radford et al. 2021), SigLIP (Zhai et al. 2023).
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dreambooth_api.contract.scores import Encoder as EncoderRecord
from dreambooth_api.models.model import Model
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.encoder_config import (
    EncoderConfig,
    EncoderSource,
    read_encoder,
)
from dreambooth_trainer.models.source.fetch import fetched
from dreambooth_trainer.models.source.selection import select_transformers_files
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadModelError

CHUNK = 32
"""Images per forward pass, which bounds the memory of a large evaluation."""


class ImageEncoder:
    """Encodes images, in fp32.

    Args:
        folder: The model in the transformers layout.
        found: Its configuration.
        source: How the job names it.
        device: Where it runs.

    Raises:
        BadModelError: The folder holds no such model that can be loaded whole.
    """

    def __init__(
        self, folder: Path, found: EncoderConfig, source: EncoderSource, device: torch.device
    ) -> None:
        self._found = found
        self._device = device
        try:
            self._model = _load(folder, found).to(device).eval()
        except Exception as error:  # damaged files make the libraries raise anything
            raise BadModelError(
                f"{source.field}: this is no {found.architecture.name} model that can be loaded:"
                f" {error}"
            ) from error
        self.record = EncoderRecord(
            name=found.architecture.name, source=source.source, sha256=_digest(folder)
        )

    @torch.no_grad()
    def images(self, images: Iterable[Image.Image]) -> Tensor:
        """Unit vectors [N, D] of N images, on the CPU."""
        parts, rest = [], iter(images)
        while chunk := list(islice(rest, CHUNK)):
            heartbeat.send()
            pixels = self._found.preprocessing.apply(chunk).to(self._device)
            parts.append(self._found.architecture.encode(self._model, pixels).cpu())
        return normalize(torch.cat(parts), dim=-1)


class TextEncoder(ImageEncoder):
    """Encodes images and texts into the same space.

    Raises:
        BadModelError: As `ImageEncoder`, or the tokenizer cannot be loaded.
    """

    def __init__(
        self, folder: Path, found: EncoderConfig, source: EncoderSource, device: torch.device
    ) -> None:
        super().__init__(folder, found, source, device)
        self._is_clip = found.architecture.name == "CLIP"
        # Not SigLIP's own class, which needs sentencepiece although tokenizer.json has it all.
        kind = CLIPTokenizer if self._is_clip else PreTrainedTokenizerFast
        try:
            self._tokenizer = kind.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damaged files make the libraries raise anything
            raise BadModelError(
                f"{source.field}: its tokenizer cannot be loaded: {error}"
            ) from error

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, D] of N texts, each cut to the model's length, on the CPU."""
        tokens = self._tokenizer(
            # SigLIP was trained on text in lower case, and so was CLIP, whose tokenizer lowers it.
            [text.lower() for text in texts],
            # SigLIP was trained with the padding, too.
            padding="max_length",
            max_length=self._found.config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        )
        arguments = {"input_ids": tokens["input_ids"].to(self._device)}
        if self._is_clip:
            arguments["attention_mask"] = tokens["attention_mask"].to(self._device)
        output = self._model.get_text_features(**arguments)
        features: Tensor = getattr(output, "pooler_output", output)
        return normalize(features.cpu(), dim=-1)


def load_encoders(
    attempt: Attempt, sources: tuple[EncoderSource, EncoderSource]
) -> tuple[ImageEncoder, TextEncoder]:
    """The encoder of images, and the one of images and prompts. Collective.

    Raises:
        BadModelError: One of them cannot be loaded.
        StorageError: It cannot be read.
    """
    images, text = sources
    return _fetch(attempt, images, ImageEncoder), _fetch(attempt, text, TextEncoder)


def _fetch(attempt: Attempt, source: EncoderSource, kind: type[Any]) -> Any:
    storage, ranks = attempt.storage, attempt.ranks
    model = Model(source=source.source)
    found = ranks.run_on_first(lambda: read_encoder(source, storage))
    with fetched(model, storage, ranks, source.field, select_transformers_files) as folder:
        return kind(folder, found, source, attempt.device)


def _load(folder: Path, found: EncoderConfig) -> Any:
    model, info = found.architecture.model_class.from_pretrained(
        folder,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
        **found.architecture.arguments,
    )
    # Transformers would go on with random values, and every score would be one of noise.
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model


def _digest(folder: Path) -> str:
    """sha256, in hexadecimal, of a model's configuration and weights."""
    digest = hashlib.sha256()
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    for path in sorted([folder / "config.json", *weights]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
