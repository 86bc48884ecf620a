"""From prompts to conditioning: by the text encoders, or looked up once all have been encoded."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreambooth_trainer.models.finite import check_conditioning
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.process import heartbeat

Conditioning = dict[str, Tensor]
"""What the denoiser is conditioned on; the first dimension of every tensor is the caption."""

Tokens = dict[str, Tensor]
"""Token ids, and masks where a family has them; the first dimension of every tensor is the
caption."""

Shapes = Mapping[str, tuple[int, ...]]
"""Of each tensor of conditioning, for one caption."""

PROMPTS_BETWEEN_CHECKS = 16
"""A language model on a GPU takes about a second for them."""


class PromptTable:
    """Conditioning of prompts, in host memory: tens of megabytes each for some families.

    Args:
        rows: By whether the prompt is negative, and by its text; one caption each.
    """

    def __init__(self, rows: Mapping[tuple[bool, str], Conditioning]) -> None:
        self._rows = rows

    def rows(self, prompts: Sequence[str], *, is_negative: bool = False) -> list[Conditioning]:
        """Conditioning of each prompt, in host memory.

        Raises:
            KeyError: A prompt is not in the table.
        """
        return [self._rows[is_negative, prompt] for prompt in prompts]


def drop_padding(conditioning: Conditioning) -> Conditioning:
    """A caption without the tokens that its `mask` [1, tokens] leaves out.

    Not in a training step, as it waits for the device.
    """
    is_read = conditioning["mask"][0].bool()
    return {name: part[:, is_read] for name, part in conditioning.items()}


def largest_shapes(rows: Sequence[Conditioning]) -> Shapes:
    """The shapes that all rows fit into: captions differ in tokens where padding was dropped."""
    return {
        name: tuple(map(max, zip(*(row[name].shape[1:] for row in rows), strict=True)))
        for name in rows[0]
    }


def count_bytes(rows: Sequence[Conditioning]) -> int:
    """Bytes of all tensors, once they are joined."""
    shapes = largest_shapes(rows)
    return sum(
        len(row[name]) * math.prod(shape) * row[name].itemsize
        for row in rows
        for name, shape in shapes.items()
    )


def join_rows(
    rows: Sequence[Conditioning], device: torch.device, shapes: Shapes | None = None
) -> Conditioning:
    """Conditioning of captions in host memory -> on a device; the host does not wait for that.

    Args:
        rows: Of one caption or several each; shorter ones get zeros behind their tokens, which
            their masks then leave out.
        device: Of the result.
        shapes: Of a caption in the result; by default those of `largest_shapes`.
    """
    shapes = shapes or largest_shapes(rows)
    return {
        name: _join([row[name] for row in rows], shape, device) for name, shape in shapes.items()
    }


def _join(rows: Sequence[Tensor], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """[captions, ...] each -> [all captions, *shape]."""
    counts = [len(row) for row in rows]
    joined = torch.zeros(sum(counts), *shape, dtype=rows[0].dtype, device=device)
    for places, row in zip(torch.split(joined, counts), rows, strict=True):
        # From pinned memory.
        places[tuple(map(slice, row.shape))].copy_(row, non_blocking=True)
    return joined


class PromptEncoder(ABC):
    """The part of a model family that turns prompts into conditioning."""

    ignores_padding: ClassVar[bool] = False
    """Whether the denoiser reads no token that the conditioning's `mask` [captions, tokens] leaves
    out, wherever these are. Padding is then dropped: captions have as many tokens as the longest of
    those beside them. Other models were trained to read padding."""
    denoiser: nn.Module
    text_encoders: dict[str, nn.Module]
    words: Sequence[LearnedWord] = ()
    """Those whose embeddings are learned; `tokens.learn` adds them."""
    prompt_table: PromptTable | None = None
    """All prompts of the job, once the text encoders have left the device."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Number of tokens of a caption that are read."""

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Number of tokens of a caption, with those that the tokenizer adds."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Tokens of captions, padded or truncated to a fixed length."""

    @abstractmethod
    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """Conditioning of tokens; differentiable in text encoders that can be trained."""

    def tokenize_negative(self, captions: Sequence[str]) -> Tokens:
        """Tokens of what guidance steers away from, as the pipeline encodes it."""
        return self.tokenize(captions)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of captions, without gradients, on the denoiser's device."""
        return join_rows(self.encode_rows(prompts), self._device)

    def encode_negative(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of what guidance steers away from, else as `encode_prompts`."""
        return join_rows(self.encode_rows(prompts, is_negative=True), self._device)

    @torch.no_grad()
    def encode_rows(
        self, prompts: Sequence[str], *, is_negative: bool = False
    ) -> list[Conditioning]:
        """Conditioning of each prompt, where the table or the text encoders have it.

        `join_rows` joins them: each has its own number of tokens where padding is ignored.
        """
        if self.prompt_table is not None:
            return self.prompt_table.rows(prompts, is_negative=is_negative)
        tokens = self.tokenize_negative(prompts) if is_negative else self.tokenize(prompts)
        encoded = self.encode_tokens({name: part.to(self._device) for name, part in tokens.items()})
        rows = [
            {name: part[row : row + 1] for name, part in encoded.items()}
            for row in range(len(prompts))
        ]
        return [drop_padding(row) for row in rows] if self.ignores_padding else rows

    @property
    def _device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def retire_text_encoders(
        self,
        prompts: Iterable[str],
        negative: Iterable[str],
        device: torch.device,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Encode all prompts of a job, keep the result in host memory, and move the encoders away.

        From then on `encode_prompts` and `encode_negative` look prompts up, and raise `KeyError`
        for others: that is a bug.

        Args:
            prompts: Captions, the empty one, and prompts of images.
            negative: Negative prompts.
            device: Of the text encoders from then on; "meta" frees them.
            check_stop: Called now and then, after the same prompts on all ranks; it may raise.

        Raises:
            BadConfigError: A prompt's conditioning overflows in fp16.
            BadModelError: It is not finite in another precision.
        """
        rows: dict[tuple[bool, str], Conditioning] = {}
        texts = [(False, text) for text in prompts] + [(True, text) for text in negative]
        for number, (is_negative, text) in enumerate(texts):
            heartbeat.send()
            if number % PROMPTS_BETWEEN_CHECKS == 0:
                check_stop()
            # Each by itself: kernels round differently for other batch sizes, and a caption's
            # conditioning must not depend on the job's other prompts.
            [row] = self.encode_rows([text], is_negative=is_negative)
            check_conditioning(row, text, self._text_dtypes())
            # From pinned memory, copies to the device do not make the host wait.
            rows[is_negative, text] = {
                name: part.cpu().pin_memory() if part.is_cuda else part.cpu()
                for name, part in row.items()
            }
        self.prompt_table = PromptTable(rows)
        for encoder in self.text_encoders.values():
            encoder.to(device)

    def _text_dtypes(self) -> set[torch.dtype]:
        """Of the text encoders' weights."""
        return {next(encoder.parameters()).dtype for encoder in self.text_encoders.values()}
