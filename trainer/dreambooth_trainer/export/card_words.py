"""The learned words on a model's card: code of diffusers, and what to do in user interfaces."""

import json
from collections.abc import Iterator

from dreambooth_trainer.export.tokens import KEYS, has_diffusers_file, word_files
from dreambooth_trainer.models.family import Family

POOLED = """# Else the prompt is pooled at its largest id, which is that of a learned token now.
text = pipe.text_encoder_2
getattr(text, "text_model", text).eos_token_id = pipe.tokenizer_2.eos_token_id"""
WEB_UI = """Copy `{path}` to `models/embeddings` of ComfyUI, or to `embeddings` of A1111. In place
of {word}, write `embedding:{name}` in prompts of ComfyUI, and `{name}` in those of A1111.

"""


def describe_kind(family: Family, adapters: str | None) -> str:
    """What a result beside its base model is: `adapters` says which adapters it has."""
    if not family.words:
        return adapters or ""
    tokens = "a learned token" if len(family.words) == 1 else "learned tokens"
    return f"{adapters} and {tokens}" if adapters else tokens.capitalize()


def loading_code(family: Family) -> Iterator[str]:
    """Lines that load the words into `pipe`."""
    if has_diffusers_file(family):
        yield 'pipe.load_textual_inversion(".")'
        return
    for file in word_files(family.words):
        path, word = json.dumps(f"./{file.path}"), json.dumps(file.word)
        if len(family.text_encoders) == 1:
            yield f"pipe.load_textual_inversion({path}, token={word})"
            continue
        yield f"learned = load_file({path})"
        for part, tokenizer in zip(family.text_encoders, family.tokenizers, strict=True):
            yield f'pipe.load_textual_inversion(\n    learned["{KEYS[part]}"], token={word},'
            yield f"    text_encoder=pipe.{part}, tokenizer=pipe.{tokenizer},\n)"
    if family.words and len(family.text_encoders) > 1:
        yield POOLED


def web_ui_text(family: Family) -> str:
    """How to use the words in user interfaces."""
    return "".join(
        WEB_UI.format(path=file.path, name=file.name, word=json.dumps(file.word))
        for file in word_files(family.words)
    )
