"""Learned words: added to tokenizers and text encoders as plain diffusers would add them."""

from typing import Any

import pytest
import torch

from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.tokens.learn import add_words, token_rows
from dreambooth_trainer.models.tokens.names import LearnedWord, expand, holds

SKS = LearnedWord("sks", "ab", 2)


def test_a_word_is_expanded_wherever_it_stands_alone() -> None:
    text = "desks of SKS, sks. sks's sks_1 and sksx"
    assert expand(text, [SKS]) == "desks of sks sks_1, sks sks_1. sks sks_1's sks_1 and sksx"
    assert expand(text, [LearnedWord("sks", "ab")]) == text
    assert expand("a <t>, x<t>", [LearnedWord("<t>", "ab", 2)]) == "a <t> <t>_1, x<t>"


def test_a_word_that_is_a_part_of_another_is_not_held() -> None:
    assert holds("a photo of sks", SKS)
    assert not holds("desks", SKS)


@pytest.mark.parametrize(
    ("initializer", "vectors", "begins_as"),
    [
        ("a", 1, [["a</w>"]]),
        ("a", 3, [["a</w>"], ["a</w>"], ["a</w>"]]),
        ("a b", 1, [["a</w>", "b</w>"]]),
        ("a b", 2, [["a</w>"], ["b</w>"]]),
        ("a b c", 2, [["a</w>", "b</w>"], ["c</w>"]]),
    ],
)
def test_vectors_begin_as_the_initializer(
    random_pipeline: Any, initializer: str, vectors: int, begins_as: list[list[str]]
) -> None:
    tokenizer = random_pipeline.tokenizer
    known = random_pipeline.text_encoder.get_input_embeddings().weight
    means = [known[tokenizer.convert_tokens_to_ids(tokens)].mean(dim=0) for tokens in begins_as]
    family = StableDiffusion(random_pipeline, "")
    add_words(family, [LearnedWord("sks", initializer, vectors)])
    [rows] = token_rows(family).values()
    torch.testing.assert_close(rows.detach(), torch.stack(means).detach())


def test_a_word_changes_only_prompts_that_hold_it(random_pipeline: Any) -> None:
    family = StableDiffusion(random_pipeline, "")
    prompts = ["a photo of a mug", "desks", "a photo of sks mug"]
    before = family.encode_prompts(prompts)["hidden_states"]
    add_words(family, [SKS])
    after = family.encode_prompts(prompts)["hidden_states"]
    assert after[:2].equal(before[:2])
    assert not after[2].equal(before[2])


def test_the_rows_alone_get_a_gradient(random_pipeline: Any) -> None:
    family = StableDiffusion(random_pipeline, "")
    add_words(family, [SKS])
    [rows] = token_rows(family).values()
    rows.requires_grad_(True)
    family.encode_tokens(family.tokenize(["a sks", "a"]))["hidden_states"].square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum(dim=1).gt(0).all()
    encoder = random_pipeline.text_encoder
    assert [name for name, p in encoder.named_parameters() if p.grad is not None] == [
        name for name, p in encoder.named_parameters() if p is rows
    ]
