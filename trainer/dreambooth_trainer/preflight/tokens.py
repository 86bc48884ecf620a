"""Checks the words to learn: `spec.subjects[].token`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dreambooth_trainer.models.model_config import ModelConfig
from dreambooth_trainer.models.tokens.names import (
    LearnedWord,
    added_words,
    holds,
    learned_words,
    misread_tokens,
)
from dreambooth_trainer.preflight.prompts import Prompts
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.process.errors import BadConfigError
from dreambooth_trainer.resolved_job import ResolvedJob


def check_tokens(
    job: ResolvedJob, config: ModelConfig, prompts: Prompts, report: PreflightReport
) -> ModelConfig:
    """Check the words, and that no text of `prompts` shows the class by one of them.

    Returns:
        The model with the words, if nothing is wrong with them.
    """
    words = learned_words(job.spec.subjects)
    problems = [*_problems(job, config, words), *_class_prompts(words, prompts)]
    report.errors += map(BadConfigError, problems)
    if problems:
        return config
    report.warnings += _rare_initializers(job, config)
    return replace(config, words=tuple(words))


def _problems(job: ResolvedJob, config: ModelConfig, words: Sequence[LearnedWord]) -> Iterator[str]:
    if words and not config.family.learns_tokens:
        yield (
            f"spec.subjects: the text encoders of {config.family.name} learn no tokens; remove"
            " token, and use training.method lora"
        )
        return
    for field, word in _fields(job):
        if known := sorted(set(_known_tokens(config, word))):
            yield (
                f"{field}.identifier: {', '.join(known)} is a token of the model, and cannot be"
                " learned as a new one; choose another, such as <my-subject>"
            )
        if any(_is_unknown(each, word.initializer) for each in config.tokenizers.values()):
            yield (
                f"{field}.token.initializer: the model does not know {word.initializer!r}; name a"
                " common word, such as the class"
            )
    if words:
        yield from _clashes(config, words)


def _clashes(config: ModelConfig, words: Sequence[LearnedWord]) -> Iterator[str]:
    """Words that are vectors of one another, or of a word that the model has."""
    tokens = Counter(token.lower() for word in words for token in word.tokens)
    if repeated := sorted(token for token, count in tokens.items() if count > 1):
        yield (
            f"spec.subjects: {', '.join(repeated)} is an identifier, and a vector of another one;"
            " rename one"
        )
    found = {
        each
        for tokenizer in config.tokenizers.values()
        for each in misread_tokens([*words, *added_words(tokenizer)])
    }
    for token, word in sorted(found):
        yield (
            f"spec.subjects: {token} would be read as one more vector of the token {word}; rename"
            " one"
        )


def _class_prompts(words: Sequence[LearnedWord], prompts: Prompts) -> Iterator[str]:
    """Texts of class images that hold a word: they are encoded once, before it is learned."""
    found = {
        (field, word.text)
        for field, text in prompts
        if field.startswith("spec.prior")
        for word in words
        if holds(text, word)
    }
    for field, word in sorted(found):
        yield f"{field}: must not contain {word}, as it shows the class in general; remove it"


def _rare_initializers(job: ResolvedJob, config: ModelConfig) -> Iterator[str]:
    """Warn of words that begin as the mean of fragments, which means little."""
    for field, word in _fields(job):
        pieces = max(len(each.tokenize(word.initializer)) for each in config.tokenizers.values())
        if pieces > max(len(word.initializer.split()), word.vectors):
            yield (
                f"{field}.token.initializer: {word.initializer!r} is {pieces} fragments to the"
                " model, whose mean says little; name common words"
            )


def _fields(job: ResolvedJob) -> Iterator[tuple[str, LearnedWord]]:
    """The words, each with the field of its subject."""
    for number, subject in enumerate(job.spec.subjects):
        for word in learned_words([subject]):
            yield f"spec.subjects[{number}]", word


def _known_tokens(config: ModelConfig, word: LearnedWord) -> Iterator[str]:
    """Those of a word's tokens that a tokenizer has."""
    for tokenizer in config.tokenizers.values():
        known = tokenizer.get_vocab().keys()
        yield from (each for each in word.tokens if each in known or each.lower() in known)


def _is_unknown(tokenizer: Any, text: str) -> bool:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return not ids or tokenizer.unk_token_id in ids
