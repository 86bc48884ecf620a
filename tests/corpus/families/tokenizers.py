"""Small tokenizers of the classes that published models have, made from a list of words.

Each word of `WORDS` is one token, with a space before it and without; any other word falls apart
into letters or bytes. So prompt templates have as many tokens as with the published tokenizers,
which matters where a pipeline cuts a template off by its count of tokens.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GemmaTokenizer, Qwen2Tokenizer, T5Tokenizer

from tests.corpus.families.parts import write_json

TEXT = """
    a photo of sks mug dog cat person style in on the beach table red blue green with and
    system user assistant model think
    Describe image by detailing color shape size texture quantity text spatial relationships
    objects background key features describe Comprehend analyze provided prompt
"""
WORDS = TEXT.split()
ASCII = [chr(code) for code in range(ord("!"), ord("~") + 1)]
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as SentencePiece writes it
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"

QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_ADDED = ("<tool_call>", "</tool_call>", "<think>", "</think>")
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The turns of Qwen's chat templates for text; an empty thought where thinking is switched off."""

MISTRAL_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set mark = 'SYSTEM_PROMPT' if message.role == 'system' else 'INST' %}"
    "[{{ mark }}]{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{{ part.text if part.type == 'text' else '[IMG]' }}{% endfor %}{% endif %}[/{{ mark }}]"
    "{% endfor %}"
)


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
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (SPACE, -2.0)]
    pieces += [(SPACE + word, -3.0) for word in dict.fromkeys(WORDS)]
    pieces += [(letter, -6.0) for letter in ASCII]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    tokenizer = T5Tokenizer(vocab=pieces, model_max_length=max_tokens)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def write_qwen(folder: Path, *, files: bool = False, fast: bool = True) -> int:
    """Write a Qwen tokenizer: bytes, chat template, padded on the right with "<|endoftext|>".

    Args:
        folder: Where to write it.
        files: With the template and the added tokens in files of their own, as transformers
            writes since 4.51.
        fast: With a tokenizer.json.

    Returns:
        The size of its vocabulary.
    """
    letters = _bytes()
    words = [spaced for word in WORDS for spaced in (word, f" {word}")]
    merges = _learn_merges((*words, "\n\n"), tuple(letters))
    tokens = dict.fromkeys([*letters, *map("".join, merges)])
    _write_bpe(folder, tokens, merges)
    added = (*QWEN_SPECIAL, *QWEN_ADDED)
    decoder = {
        str(len(tokens) + number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in QWEN_SPECIAL,
        }
        for number, token in enumerate(added)
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": list(QWEN_SPECIAL[1:]),
        "bos_token": None,
        **({} if files else {"chat_template": QWEN_TEMPLATE}),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", config)
    if files:
        (folder / "chat_template.jinja").write_text(QWEN_TEMPLATE)
        numbers = {token: len(tokens) + number for number, token in enumerate(added)}
        write_json(folder / "added_tokens.json", numbers)
        special = {name: config[name] for name in ("eos_token", "pad_token")}
        write_json(folder / "special_tokens_map.json", special)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    if fast:
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return len(tokenizer)


def write_mistral(folder: Path) -> int:
    """Write the tokenizer of a Pixtral processor: bytes, turns in brackets, padded on the left.

    Returns:
        The size of its vocabulary, which begins with the special tokens.
    """
    letters = _bytes()
    words = [spaced for word in WORDS for spaced in (word, f" {word}")]
    merges = _learn_merges(tuple(words), tuple(letters))
    tokens = dict.fromkeys([*MISTRAL_SPECIAL, *letters, *map("".join, merges)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in MISTRAL_SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000,
            "padding_side": "left",
            "processor_class": "PixtralProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    (folder / "chat_template.jinja").write_text(MISTRAL_TEMPLATE)
    processor = {
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
        "image_token": "[IMG]",
        "patch_size": 14,
        "processor_class": "PixtralProcessor",
        "spatial_merge_size": 2,
    }
    write_json(folder / "processor_config.json", processor)
    images = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "PixtralImageProcessorFast",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
        "processor_class": "PixtralProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 1540},
    }
    write_json(folder / "preprocessor_config.json", images)
    return len(tokens)


def write_gemma(folder: Path, text: str = "") -> int:
    """Write a Gemma tokenizer: pieces with a mark for spaces, a start token, padded on the right.

    Args:
        folder: Where to write it.
        text: Its words, too, are one token each.

    Returns:
        The size of its vocabulary.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [SPACE, "\n", *ASCII]
    words = sorted({*WORDS, *text.split()})
    spaced = tuple(piece for word in words for piece in (word, SPACE + word))
    merges = _learn_merges(spaced, tuple(letters), byte_level=False)
    octets = [f"<0x{value:02X}>" for value in range(256)]
    tokens = dict.fromkeys([*special, *octets, *letters, *map("".join, merges)])
    tokenizer = GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        padding_side="right",
        model_max_length=8192,
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@cache
def _learn_merges(
    words: tuple[str, ...], letters: tuple[str, ...], suffix: str = "", *, byte_level: bool = True
) -> list[tuple[str, str]]:
    """Merges of pairs of letters after which every word is one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    parts = [pre_tokenizers.Split("\n", "removed")]
    if byte_level:
        parts.append(pre_tokenizers.ByteLevel(False, use_regex=False))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(parts)
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
