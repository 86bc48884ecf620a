"""Learned words in files of diffusers and of web UIs, and back.

What others write and read, by their sources:

- A1111 (modules/textual_inversion/textual_inversion.py): `Embedding.save` writes a `.pt` with the
  rows as `string_to_param["*"]`; `create_embedding_from_data` also reads `clip_g` and `clip_l`
  together, or the only tensor of a file, whatever its key. The word is the file's name.
- ComfyUI (comfy/sd1_clip.py): `load_embed` reads `string_to_param`, then the key of its text
  encoder (`clip_l`, `clip_g`), then the first tensor. The word is the file's name.
- sd-scripts: train_textual_inversion.py writes `emb_params`, sdxl_train_textual_inversion.py
  `clip_l` and `clip_g`.
- diffusers (loaders/textual_inversion.py): the only key of a file is the word.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dreambooth_trainer.export.weights import save_weights
from dreambooth_trainer.models.clip import text_model
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.tokens.learn import Rows, learned_rows
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.process.errors import BadModelError

EMBEDDINGS = "embeddings"
"""The folder with a file for each word, named as web UIs name theirs."""
DIFFUSERS_FILE = "learned_embeds.safetensors"
"""The only word, where `pipe.load_textual_inversion(folder)` looks for it."""
WORD, INITIALIZER = "dreambooth.token", "dreambooth.initializer"
"""Metadata of a file: what it was learned as, and from what."""
SINGLE_KEY = "emb_params"
"""The name of a word's rows for one text encoder, where the file names the word."""
KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""The names for the two of SDXL."""
A1111_KEY = "string_to_param"
NAMELESS = (SINGLE_KEY, "*")
"""Keys that are not the word itself."""
PICKLED = (".pt", ".bin")
"""Ends of the names of files that torch.save has written, as A1111 does."""


@dataclass(frozen=True)
class WordFile:
    """An exported word."""

    word: str
    name: str
    """Of the file, without its folder and ending: what to write in web UIs."""

    @property
    def path(self) -> str:
        """Below the folder of the export."""
        return f"{EMBEDDINGS}/{self.name}.safetensors"


def word_files(words: Iterable[LearnedWord]) -> list[WordFile]:
    """The files of words; names have no letters that Windows or a web UI's prompt refuses."""
    found: list[WordFile] = []
    taken: set[str] = set()
    for number, word in enumerate(words):
        name = re.sub(r"[<>*]+", "", word.text) or "token"
        if name.lower() in taken:
            name = f"{name}-{number}"
        taken.add(name.lower())
        found.append(WordFile(word.text, name))
    return found


def save_words(family: Family, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the learned words of a family to `folder`.

    Raises:
        OSError: A file cannot be written.
    """
    (folder / EMBEDDINGS).mkdir(parents=True, exist_ok=True)
    rows = learned_rows(family)
    for file, (word, own) in zip(word_files(rows), rows.items(), strict=True):
        described = {**metadata, WORD: word.text, INITIALIZER: word.initializer}
        names = KEYS if len(own) > 1 else dict.fromkeys(own, SINGLE_KEY)
        weights = {names[part]: values for part, values in own.items()}
        save_weights(weights, folder / file.path, described)
    if has_diffusers_file(family):
        [(word, own)] = rows.items()
        [values] = own.values()
        save_weights({word.text: values}, folder / DIFFUSERS_FILE, metadata)


def has_diffusers_file(family: Family) -> bool:
    """Whether all that was learned is one word of one text encoder."""
    return len(family.words) == 1 and len(family.text_encoders) == 1


def read_word(
    family: type[Family], path: Path, source: str
) -> tuple[LearnedWord, dict[str, Tensor]]:
    """A word from a file of this project, of diffusers or of a web UI, with its rows by part.

    Args:
        family: Of the base model.
        path: The file; it names the word, unless it holds the name.
        source: Of the file, for messages.

    Raises:
        BadModelError: It is no such file, or of another kind of model.
    """
    weights, metadata = _read_file(path, source)
    parts = family.text_parts()
    keys = [KEYS[part] for part in parts] if len(parts) > 1 else [*weights]
    if len(weights) != len(parts) or set(keys) != set(weights):
        wanted = " and ".join(KEYS[part] for part in parts) if len(parts) > 1 else "one tensor"
        raise BadModelError(
            f"{source} is no learned token of {family.name}: it holds {', '.join(sorted(weights))}"
            f" in place of {wanted}; name one that was learned for this kind of model"
        )
    found = {part: weights[key] for part, key in zip(parts, keys, strict=True)}
    rows = {part: each[None] if each.ndim == 1 else each for part, each in found.items()}
    if any(each.ndim != 2 or not each.isfinite().all() for each in rows.values()):
        raise BadModelError(
            f"{source} is damaged: it holds other things than vectors of finite numbers; copy it"
            " again"
        )
    [count, *others] = {len(each) for each in rows.values()}
    if others:
        raise BadModelError(f"{source} is damaged: its text encoders have other numbers of vectors")
    named = keys[0] if len(parts) == 1 and keys[0] not in NAMELESS else path.stem
    word = metadata.get(WORD, named)
    return LearnedWord(word, metadata.get(INITIALIZER, word), count), rows


def _read_file(path: Path, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and its metadata."""
    if path.suffix.lower() in PICKLED:
        return _read_pickled(path, source), {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadModelError(
            f"{source} is damaged, or no safetensors file; copy it again"
        ) from error


def _read_pickled(path: Path, source: str) -> dict[str, Tensor]:
    """The tensors of a file of torch.save; nothing else in it is loaded, as that may run code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise anything
        raise BadModelError(
            f"{source} is damaged, or holds more than tensors, which could run code; convert it to"
            " .safetensors with a tool that you trust"
        ) from error
    if isinstance(content, dict) and A1111_KEY in content:
        content = content[A1111_KEY]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise BadModelError(f"{source} holds no learned token; name one that does")
    return {key: value.detach() for key, value in content.items()}


def read_words(family: Family, paths: Iterable[Path], uri: str) -> dict[LearnedWord, Rows]:
    """Words from files that lie below `uri`, for `add_known_words`.

    Raises:
        BadModelError: One is damaged, or of another kind of model.
    """
    words: dict[LearnedWord, Rows] = {}
    for path in paths:
        source = f"{uri}/{path.name}"
        word, rows = read_word(type(family), path, source)
        check_widths(family, rows, source)
        words[word] = rows
    return words


def check_widths(family: Family, rows: Mapping[str, Tensor], source: str) -> None:
    """Check that rows fit the text encoders.

    Raises:
        BadModelError: They are of another model.
    """
    for part, values in rows.items():
        width = text_model(family.text_encoders[part]).embeddings.token_embedding.weight.shape[1]
        if values.shape[1] != width:
            raise BadModelError(
                f"{source} has embeddings of {values.shape[1]} numbers, and those of the model's"
                f" {part} have {width}; name one that was learned for this kind of model"
            )
