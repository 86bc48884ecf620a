"""How a local model's tokens are chosen: within a JSON schema, and by a request's own seed."""

import json
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance.hf import from_tokenizer
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request

CLOSING = ('"', "]", "}")
"""What ends a string, then a list, then an object."""
LAST_TOKENS = 8
"""An answer of limited length is closed this early, which may take an escape's end as well."""


class Grammars:
    """The grammars of answers in one tokenizer's tokens.

    Raises:
        ValueError: The tokenizer is not one of the tokenizers library.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = from_tokenizer(tokenizer)
        closing = (tokenizer.eos_token, *CLOSING)
        found = [tokenizer.convert_tokens_to_ids(each) for each in closing if each]
        self.closing = [each for each in found if each not in (None, tokenizer.unk_token_id)]
        """Tokens that bring an answer to its end, the best one first."""

    def matcher(self, kind: type[Answer]) -> llguidance.LLMatcher:
        """What accepts the tokens of one answer."""
        schema = json.dumps(kind.model_json_schema())
        # Else a model may write spaces between values for ever.
        compact = llguidance.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False}
        )
        return llguidance.LLMatcher(self._tokenizer, compact)


class WithinGrammar(LogitsProcessor):  # type: ignore[misc]
    """Leaves the tokens that a grammar allows next, for one sequence.

    Args:
        matcher: Of the answer.
        prompt: Tokens before the answer.
        close_from: Length of the sequence from which on the answer is ended as soon as it may.
        closing: Tokens that end it, the best one first.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        prompt: int,
        close_from: int | None = None,
        closing: Sequence[int] = (),
    ) -> None:
        self._matcher = matcher
        self._seen = prompt
        self._close_from = close_from
        self._closing = closing

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [1, V] after the tokens [1, T]."""
        for token in input_ids[0, self._seen :].tolist():
            self._matcher.consume_token(token)
        self._seen = input_ids.shape[1]
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        # A vocabulary may be padded beyond the tokenizer's.
        allowed = np.zeros(scores.shape[1], bool)
        known = np.unpackbits(bits, bitorder="little", count=min(8 * len(bits), len(allowed)))
        allowed[: len(known)] = known
        if self._close_from is not None and self._seen >= self._close_from:
            for token in self._closing:
                if allowed[token]:
                    allowed = np.arange(len(allowed)) == token
                    break
        mask = torch.from_numpy(allowed).to(scores.device)
        return scores.masked_fill(~mask, float("-inf"))


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Makes the likeliest token a random one (Gumbel-max sampling), for one sequence.

    Transformers itself draws from the global generator, so that an answer would depend on what was
    asked before it. This noise is drawn on the CPU, so that it is the same on every device.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 (transformers')
        """Scores [1, V] after the tokens [1, T]."""
        uniform = torch.rand(scores.shape[1], generator=self._generator, dtype=torch.float64)
        noise = -torch.log(-torch.log(uniform))
        return scores.float() + noise.to(scores.device, torch.float32)


def processors(
    grammars: Grammars, kind: type[Answer], request: Request, prompt: int
) -> LogitsProcessorList:
    """What makes a greedy search draw one answer from the model's distribution.

    Temperature and the like count among the tokens that the grammar allows.

    Args:
        grammars: Of the model's tokens.
        kind: What is to be answered.
        request: The request; an answer longer than its `max_tokens` is closed there.
        prompt: Tokens before the answer.
    """
    limit, sampling = request.max_tokens, request.sampling
    close_from = None if limit is None else prompt + limit - LAST_TOKENS
    within = WithinGrammar(grammars.matcher(kind), prompt, close_from, grammars.closing)
    chosen = LogitsProcessorList([within])
    if sampling.temperature == 0:
        return chosen
    chosen.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k is not None:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(float(sampling.top_p)))
    chosen.append(GumbelNoise(request.seed))
    return chosen
