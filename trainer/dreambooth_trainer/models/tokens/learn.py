"""Adds learned words to the tokenizers and text encoders of a family."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from dreambooth_trainer.models.clip import text_model
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.tokens.embedding import SplicedEmbedding
from dreambooth_trainer.models.tokens.names import LearnedWord

Rows = Mapping[str, Tensor]
"""A word's embeddings [vectors, D] by the folder of the text encoder."""


def add_words(family: Family, words: Sequence[LearnedWord]) -> None:
    """Add words that begin as their initializers, frozen as yet; once for a family.

    Args:
        family: One that `learns_tokens`; its weights may be on the meta device.
        words: The words.
    """
    _add(family, words, [None] * len(words))


def add_known_words(family: Family, words: Mapping[LearnedWord, Rows]) -> None:
    """Add words that were learned before, likewise."""
    _add(family, [*words], [*words.values()])


def token_rows(family: Family) -> dict[str, nn.Parameter]:
    """The learned rows, under names that say to optimizers that they are an embedding's."""
    return {
        f"{part}.tokens.embedding.weight": embedding.rows
        for part, encoder in family.text_encoders.items()
        if isinstance(embedding := text_model(encoder).embeddings.token_embedding, SplicedEmbedding)
    }


def learned_rows(family: Family) -> dict[LearnedWord, dict[str, Tensor]]:
    """Each word's embeddings."""
    found: dict[LearnedWord, dict[str, Tensor]] = {word: {} for word in family.words}
    for part, encoder in family.text_encoders.items():
        rows = text_model(encoder).embeddings.token_embedding.rows.detach()
        sizes = [word.vectors for word in family.words]
        for word, own in zip(family.words, rows.split(sizes), strict=True):
            found[word][part] = own
    return found


def has_words(family: Family) -> bool:
    """Whether words are tokens of the model, now or since it was merged with them."""
    tokenizers = [getattr(family.pipeline(), each) for each in family.tokenizers]
    return family.learns_tokens and any(len(each) > each.vocab_size for each in tokenizers)


def write_into(family: Family) -> None:
    """Make the learned rows part of the text encoders' own embeddings, for good."""
    encoder: Any
    for encoder in family.text_encoders.values():
        embeddings = text_model(encoder).embeddings
        embeddings.token_embedding = whole = embeddings.token_embedding.whole()
        encoder.config.vocab_size = whole.num_embeddings


def _add(
    family: Family, words: Sequence[LearnedWord], known: Sequence[Mapping[str, Tensor] | None]
) -> None:
    assert family.learns_tokens
    assert not family.words
    tokenizers = [getattr(family.pipeline(), each) for each in family.tokenizers]
    for (part, encoder), tokenizer in zip(family.text_encoders.items(), tokenizers, strict=True):
        embeddings = text_model(encoder).embeddings
        frozen = embeddings.token_embedding
        # Before the words are tokens themselves.
        starts = [
            rows[part].to(frozen.weight.device)
            if rows is not None
            else _start(frozen, tokenizer, word)
            for word, rows in zip(words, known, strict=True)
        ]
        first = len(tokenizer)
        names = [token for word in words for token in word.tokens]
        # Of whole words alone: `sks` is not a part of `desks`.
        tokenizer.add_tokens([AddedToken(each, single_word=True) for each in names])
        assert tokenizer.convert_tokens_to_ids(names) == [*range(first, first + len(names))]
        embeddings.token_embedding = SplicedEmbedding(frozen, first, torch.cat(starts))
        _pool_at_end(encoder, tokenizer)
    family.words = tuple(words)


def _start(frozen: nn.Embedding, tokenizer: Any, word: LearnedWord) -> Tensor:
    """[vectors, D]: the initializer's embeddings, the mean of several where they are more."""
    ids = tokenizer(word.initializer, add_special_tokens=False).input_ids
    rows = frozen.weight.detach()[torch.tensor(ids)].float()
    if len(rows) < word.vectors:
        return rows[torch.arange(word.vectors) % len(rows)]
    return torch.stack([each.mean(dim=0) for each in rows.tensor_split(word.vectors)])


def _pool_at_end(encoder: Any, tokenizer: Any) -> None:
    """Take a prompt's pooled embedding from its end, whatever ids it holds.

    The published text encoders of SDXL take it from the largest id (`eos_token_id: 2`), which is
    that of the end until there are new tokens.
    """
    model, end = text_model(encoder), tokenizer.eos_token_id
    model.eos_token_id = model.config.eos_token_id = encoder.config.eos_token_id = end
