"""The tokenizer in Qwen's format, the text encoder, and captions as a user's messages."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

MAX_TOKENS = 32
WIDTH, LAYERS = 128, 3
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def train_tokenizer(captions: Iterable[str], folder: Path) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer in Qwen's format, saved in ``folder``.

    Words of the captions and of the chat template become one token each, with the space before
    them; any other word falls apart into letters.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=20,
        special_tokens=letters,  # numbers them, so that ties are broken alike in every run
        show_progress=False,
    )
    bpe.train_from_iterator([*captions, *(["user", "assistant"] * 20)], trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    tokens = dict.fromkeys([*letters, *map("".join, merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in merges],
        pad_token=PAD,
        eos_token=END,
        unk_token=None,
        additional_special_tokens=[START],
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """An untrained Qwen3 of 0.5 M parameters; the states before its last layer are what is read."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Captions:
    """Captions as the pipeline's messages, tokenized once: ids and length by text."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[Tensor, int]] = {}

    def ids(self, captions: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Token ids (n, MAX_TOKENS), padded on the right, and the number that are not padding."""
        for text in captions:
            if text not in self._known:
                self._known[text] = self._tokenize(text)
        ids, lengths = zip(*(self._known[text] for text in captions), strict=True)
        return torch.stack(ids), list(lengths)

    def _tokenize(self, caption: str) -> tuple[Tensor, int]:
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True
        )
        encoded = self._tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return encoded.input_ids[0], int(encoded.attention_mask.sum())
