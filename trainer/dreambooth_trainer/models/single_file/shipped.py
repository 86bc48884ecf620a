"""The configurations of models in single files, which come with the project."""

import gzip
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from dreambooth_trainer.models.scheduler import load_scheduler
from dreambooth_trainer.models.single_file.architectures import Architecture
from dreambooth_trainer.models.source.model_files import FIELD, ModelFiles
from dreambooth_trainer.models.source.selection import pipeline_settings

CONFIGS = Path(__file__).with_name("configs")
"""Folders in the diffusers layout without weights."""
MERGES = "clip-merges.txt.gz"
"""Merges of CLIP's byte-pair encoding, one a line (Radford et al. 2021; MIT licence)."""


def config_files(architecture: Architecture) -> ModelFiles:
    """The files of an architecture's configuration."""
    folder = CONFIGS / architecture.folder
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.json")}
    return ModelFiles(
        architecture.folder,
        FIELD,
        {name: path.stat().st_size for name, path in paths.items()},
        lambda name: paths[name].read_bytes(),
        lambda name, length: paths[name].read_bytes()[:length],
    )


def load_shipped_parts(architecture: Architecture) -> dict[str, Any]:
    """Tokenizers, scheduler and settings of an architecture's pipeline, by name."""
    files, family = config_files(architecture), architecture.family
    scheduler = load_scheduler(files, family.objective_kind)
    return {
        **{part: load_tokenizer(files, part) for part in family.tokenizers},
        "scheduler": type(scheduler).from_config(scheduler.config, **architecture.scheduler),
        **pipeline_settings(family, files),
    }


def load_tokenizer(files: ModelFiles, part: str) -> CLIPTokenizer:
    """CLIP's tokenizer, with the settings in a folder of the configuration."""
    settings = files.json(f"{part}/tokenizer_config.json")
    lines = gzip.decompress((CONFIGS / MERGES).read_bytes()).decode().splitlines()
    merges = [tuple(line.split()) for line in lines]
    units = _byte_units()
    words = [
        *units, *(f"{unit}</w>" for unit in units), *map("".join, merges),
        settings["bos_token"], settings["eos_token"],
    ]  # fmt: skip
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **settings)


def _byte_units() -> list[str]:
    """The character that stands for each byte in GPT-2's byte-pair encoding, in CLIP's order.

    Printable Latin-1 characters stand for themselves and come first; the other bytes get the code
    points from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
