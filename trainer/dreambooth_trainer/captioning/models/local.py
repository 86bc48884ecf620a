"""A vision-language model of transformers on this rank's device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.chat_inputs import chat_inputs
from dreambooth_trainer.captioning.models.choice import Grammars, processors
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.process.errors import BadModelError

FIELD = "spec.captioning.model.source"
TOKENS_PER_CHARACTER = 6
"""At most: a tokenizer may write each character of the escape \\u00e9 as a token of its own."""


class LocalModel:
    """Answers by a model of transformers; every answer is valid, as its tokens are constrained.

    Args:
        folder: The model's files.
        name: As the job names it.
        device: Where it runs.
        processor: Files of its tokenizer and its processor of images; by default, in `folder`.

    Raises:
        BadModelError: The folder holds no model that reads images and text, or no chat template.
    """

    def __init__(
        self, folder: Path, name: str, device: torch.device, *, processor: Path | None = None
    ) -> None:
        self.name = name
        self._device = device
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            self._inputs = chat_inputs(processor or folder, config)
            self._grammars = Grammars(self._inputs.tokenizer)
            self._model = _load(folder, config, device).to(device).eval()
        except Exception as error:  # files of other people make the libraries raise anything
            raise BadModelError(
                f"{FIELD}: {name} is no vision-language model that can be loaded: {error}"
            ) from error
        if self._inputs.tokenizer.chat_template is None:
            raise BadModelError(
                f"{FIELD}: {name} has no chat template, so it takes no questions; name a model that"
                " was trained for instructions"
            )

    def answer(self, requests: Sequence[Request], kind: type[Answer]) -> list[str]:
        """The answers' JSON, one for each request."""
        # One by one: in a batch, padding changes the last bits, and an answer would depend on what
        # else is asked.
        return [self._answer(request, kind) for request in requests]

    def close(self) -> None:
        """Free the device's memory."""
        self._model.to("meta")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _answer(self, request: Request, kind: type[Answer]) -> str:
        heartbeat.send()
        inputs = {
            name: each.to(self._device) for name, each in self._inputs.encode(request, kind).items()
        }
        prompt = inputs["input_ids"].shape[1]
        tokens = self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=request.max_tokens or TOKENS_PER_CHARACTER * kind.max_characters,
            logits_processor=processors(self._grammars, kind, request, prompt),
        )
        return str(self._inputs.tokenizer.decode(tokens[0, prompt:], skip_special_tokens=True))


def _load(folder: Path, config: Any, device: torch.device) -> Any:
    quantization = getattr(config, "quantization_config", None) or {}
    # Ministral 3 is published in fp8, which transformers multiplies by kernels from a hub.
    if quantization.get("quant_method") == "fp8":
        config.quantization_config = {**quantization, "dequantize": True}
    model, info = AutoModelForImageTextToText.from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        # Many processors emulate half precision, ten times slower.
        dtype=torch.float32 if device.type == "cpu" else "auto",
        # Every rank of a pod loads it: whole copies in the host's memory would not fit.
        device_map=device if device.type == "cuda" else None,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return model
