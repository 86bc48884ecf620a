"""The tokenizer, and captions as token ids."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTokenizer

MAX_TOKENS = 20
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format, saved in ``folder``.

    Words of the captions become one token each; any other word falls apart into letters.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        min_frequency=3,
        end_of_word_suffix="</w>",
        special_tokens=_letters(),  # numbers them, so that ties are broken alike in every run
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    (folder / "vocab.json").write_text(json.dumps(_clip_vocabulary(merges)))
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _letters() -> list[str]:
    """Every byte, and every byte that ends a word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*letters, *(letter + "</w>" for letter in letters)]


def _clip_vocabulary(merges: Sequence[Sequence[str]]) -> dict[str, int]:
    """The letters, every merged piece, and the two special tokens."""
    tokens = [*_letters(), *("".join(pair) for pair in merges), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (n, MAX_TOKENS), padded the way Stable Diffusion pads."""
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids
    return ids


def text_config(
    tokenizer: CLIPTokenizer, width: int, layers: int, projection: int
) -> CLIPTextConfig:
    """A CLIP text model's configuration for this tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class Captions:
    """Every caption of a list, tokenized once: ids by number."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}

    def ids(self, captions: Sequence[str]) -> Tensor:
        """Token ids of the captions, (n, MAX_TOKENS)."""
        new = list({text for text in captions if text not in self._known})
        if new:
            self._known.update(zip(new, tokenize(self._tokenizer, new), strict=True))
        return torch.stack([self._known[text] for text in captions])
