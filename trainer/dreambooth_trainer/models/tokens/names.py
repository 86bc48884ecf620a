"""A learned word's tokens, under the names that diffusers gives them. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth_api.models.subject import Subject


@dataclass(frozen=True)
class LearnedWord:
    """A word of prompts that stands for one or more embeddings."""

    text: str
    initializer: str
    """Known words that it begins as."""
    vectors: int = 1

    @property
    def tokens(self) -> list[str]:
        """`sks`, `sks_1`, ...: what `load_textual_inversion` of diffusers adds to a tokenizer."""
        return [self.text, *(f"{self.text}_{number}" for number in range(1, self.vectors))]


def learned_words(subjects: Iterable[Subject]) -> list[LearnedWord]:
    """The identifiers that have a token (`spec.subjects[].token`)."""
    return [
        LearnedWord(
            each.identifier, each.token.initializer or each.class_noun, each.token.vectors or 1
        )
        for each in subjects
        if each.token is not None
    ]


def added_words(tokenizer: Any) -> list[LearnedWord]:
    """Every token that was added to a tokenizer, with the vectors that diffusers finds by name.

    They are those that are learned, and those that were merged into the model before.
    """
    tokens = tokenizer.added_tokens_encoder
    known = {each.lower() for each in tokens}
    return [LearnedWord(each, each, _count_vectors(each, known)) for each in tokens]


def misread_tokens(words: Sequence[LearnedWord]) -> Iterator[tuple[str, str]]:
    """Tokens of words that diffusers takes for one more vector of another, each with the other."""
    known = {token.lower() for word in words for token in word.tokens}
    for word in words:
        if _count_vectors(word.text, known) > word.vectors:
            yield f"{word.text}_{word.vectors}", word.text


def _count_vectors(word: str, known: Collection[str]) -> int:
    """How many of `word`, `word_1`, ... are there, the first in any case; `known` is lower case."""
    vectors = 1
    while f"{word.lower()}_{vectors}" in known:
        vectors += 1
    return vectors


def expand_captions(captions: Iterable[str], tokenizer: Any) -> list[str]:
    """Captions with every token of the words in them, as the tokenizer takes them."""
    words = added_words(tokenizer)
    return [expand(caption, words) for caption in captions]


def expand(text: str, words: Sequence[LearnedWord]) -> str:
    """A prompt with all tokens of each word in its place, as `maybe_convert_prompt` of diffusers.

    Like the tokenizer, it takes a word for one wherever it stands alone, in any case.
    """
    for word in words:
        if word.vectors > 1:
            text = _pattern(word).sub(" ".join(word.tokens), text)
    return text


def holds(text: str, word: LearnedWord) -> bool:
    """Whether a word is in a text, as tokenizers see it."""
    return _pattern(word).search(text) is not None


def _pattern(word: LearnedWord) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word.text)}(?!\w)", re.IGNORECASE)
