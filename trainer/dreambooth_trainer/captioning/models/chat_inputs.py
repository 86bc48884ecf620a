"""A request as tensors: a model's own chat template, and its own preprocessing of images."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.captioning.models.messages import chat


class ChatInputs(Protocol):
    """Turns requests into what a model's forward pass takes."""

    tokenizer: Any

    def encode(self, request: Request, kind: type[Answer]) -> dict[str, Tensor]:
        """`input_ids` [1, T] and the other tensors of one request."""


class ProcessorInputs:
    """By the processor of transformers that the model's files name."""

    def __init__(self, folder: Path) -> None:
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer = self._processor.tokenizer

    def encode(self, request: Request, kind: type[Answer]) -> dict[str, Tensor]:
        """`input_ids` [1, T] and the other tensors of one request."""
        image = None if request.image is None else {"type": "image", "image": request.image}
        return dict(
            self._processor.apply_chat_template(
                chat(request, kind, image),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )


class PixtralInputs:
    """Of Mistral 3 and Ministral 3, whose processor in transformers needs torchvision.

    An image takes one token a patch after merging, with a token at the end of each row (Pixtral,
    Agrawal et al. 2024, section 2.2).
    """

    def __init__(self, folder: Path, patch: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._images = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, backend="pil"
        )
        self._patch = patch

    def encode(self, request: Request, kind: type[Answer]) -> dict[str, Tensor]:
        """`input_ids` [1, T] and the other tensors of one request."""
        image = None if request.image is None else {"type": "image"}
        text = self.tokenizer.apply_chat_template(
            chat(request, kind, image), add_generation_prompt=True, tokenize=False
        )
        pixels: dict[str, Tensor] = {}
        if request.image is not None:
            size = {"height": self._patch, "width": self._patch}
            pixels = dict(
                self._images([request.image.convert("RGB")], patch_size=size, return_tensors="pt")
            )
            height, width = (int(side) // self._patch for side in pixels["image_sizes"][0])
            rows = "[IMG_BREAK]".join(["[IMG]" * width] * height)
            text = text.replace("[IMG]", f"{rows}[IMG_END]", 1)
        tokens = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
        } | pixels


def chat_inputs(folder: Path, config: Any) -> ChatInputs:
    """For a model with this configuration of transformers.

    Raises:
        Exception: The folder has no processor or tokenizer that can be loaded; of any class.
    """
    if config.model_type == "mistral3":
        return PixtralInputs(folder, config.vision_config.patch_size * config.spatial_merge_size)
    return ProcessorInputs(folder)
