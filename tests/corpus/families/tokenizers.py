"""Small tokenizers of the classes that published models have, made from a list of words.

Each word of `WORDS` is one token, with a space before it and without; any other word falls apart
into letters or bytes. So prompt templates have as many tokens as with the published tokenizers,
which matters where a pipeline cuts a template off by its count of tokens.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Tokenizer

from tests.corpus.families.parts import write_json

TEXT = """
    a photo of sks mug dog cat person style in on the beach table red blue green with and
    system user assistant model think
    Describe image by detailing color shape size texture quantity text spatial relationships
    objects background key features describe
"""
WORDS = TEXT.split()
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"


def write_clip(folder: Path, pad: str = CLIP_END) -> int:
    """Write a CLIPTokenizer as published with SDXL: 77 tokens, no tokenizer.json.

    Returns:
        The size of its vocabulary; the end token has the highest id, as in CLIP.
    """
    letters = _bytes()
    letters += [f"{letter}</w>" for letter in letters]
    merges = _learn_merges(tuple(word.lower() for word in WORDS), tuple(letters), "</w>")
    tokens = dict.fromkeys([*letters, *map("".join, merges), CLIP_START, CLIP_END])
    special = {"bos_token": CLIP_START, "eos_token": CLIP_END, "unk_token": CLIP_END}
    _write_bpe(folder, tokens, merges)
    write_json(folder / "special_tokens_map.json", {**special, "pad_token": pad})
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            **special,
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
    return len(tokens)


def write_t5(folder: Path, max_tokens: int = 512) -> int:
    """Write a T5 tokenizer: Unigram, 100 sentinels, padded with 0, no spiece.model.

    Returns:
        The size of its vocabulary.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}", -2.0)]
    pieces += [(f"\N{LOWER ONE EIGHTH BLOCK}{word}", -3.0) for word in dict.fromkeys(WORDS)]
    pieces += [(chr(code), -6.0) for code in range(ord("!"), ord("~") + 1)]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    tokenizer = T5Tokenizer(vocab=pieces, model_max_length=max_tokens)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@cache
def _learn_merges(
    words: tuple[str, ...], letters: tuple[str, ...], suffix: str = ""
) -> list[tuple[str, str]]:
    """Merges of byte pairs after which every word is one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "removed"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=suffix,
        special_tokens=list(letters),  # numbers them, so that ties are broken alike in every run
        show_progress=False,
    )
    bpe.train_from_iterator(["\n".join(words)], trainer)
    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]


def _bytes() -> list[str]:
    """The letters that stand for the 256 bytes; "!" is the first."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _write_bpe(folder: Path, tokens: Iterable[str], merges: Iterable[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
