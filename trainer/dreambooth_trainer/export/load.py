"""Loads what a run has exported into the model that it was trained from."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from peft.tuners.tuners_utils import BaseTunerLayer

from dreambooth_storage import Storage
from dreambooth_trainer.export.lora import LORA_FILE, PEFT_FOLDER, load_adapters
from dreambooth_trainer.export.tokens import EMBEDDINGS, read_words
from dreambooth_trainer.models.family import Family
from dreambooth_trainer.models.load import hash_files
from dreambooth_trainer.models.source.selection import INDEX
from dreambooth_trainer.models.tokens.learn import add_known_words
from dreambooth_trainer.process.errors import BadConfigError, BadModelError


def list_export(storage: Storage, uri: str) -> set[str]:
    """The names of the files of an exported model; empty where there is none.

    Raises:
        BadModelError: They are neither adapters nor a whole model.
        StorageError: It cannot be read.
    """
    names = {each.relative for each in storage.list(uri, field="spec.output")}
    if names and INDEX not in names and not adapter_files(names):
        raise BadModelError(
            f"spec.output: the exported model at {uri} is not complete: it has neither {LORA_FILE},"
            f" {PEFT_FOLDER}, {EMBEDDINGS} nor {INDEX}; copy it again, or train the job again"
        )
    return names


def adapter_files(names: Iterable[str]) -> set[str]:
    """Those of an export's files that are loaded into its base model; none of a whole model's."""
    folders = f"{PEFT_FOLDER}/", f"{EMBEDDINGS}/"
    return {each for each in names if each == LORA_FILE or each.startswith(folders)}


def add_exported(
    family: Family, storage: Storage, uri: str, names: set[str], adapter: str = "default"
) -> str:
    """Add exported adapters and words to the base model that they were trained on.

    Args:
        family: The base model.
        storage: Of the export.
        uri: The export's folder.
        names: Its `adapter_files`.
        adapter: The name that they get.

    Returns:
        sha256 of both, in hexadecimal.

    Raises:
        BadModelError: A word does not fit the model.
        StorageError: They cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="lora-") as local:
        storage.download_tree(uri, Path(local), select=names.__contains__)
        if any(not each.startswith(f"{EMBEDDINGS}/") for each in names):
            load_adapters(family.pipeline(), Path(local), adapter)
        files = sorted(Path(local, EMBEDDINGS).glob("*.safetensors"))
        if words := read_words(family, files, f"{uri}/{EMBEDDINGS}"):
            add_known_words(family, words)
        return hash_files(Path(local), sorted(names))


def scale_adapters(family: Family, weight: float) -> None:
    """Multiply what adapters change.

    Raises:
        BadConfigError: The model has none.
    """
    parts = family.parts.values()
    layers = [each for part in parts for each in part.modules() if isinstance(each, BaseTunerLayer)]
    if not layers and weight != 1:
        raise BadConfigError(
            "weight of the adapters: the result is a whole model without adapters, or a token;"
            " leave it out"
        )
    for layer in layers:
        for name in layer.scaling:
            layer.set_scale(name, weight)
