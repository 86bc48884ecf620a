"""Access to single files of a model in storage, without downloading its weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, join
from dreambooth_trainer.models.fetch import FIELD, HUB_ERRORS, hub_error
from dreambooth_trainer.process.errors import BadModelError

WEIGHTS_SUFFIX = ".safetensors"

JsonObject = Mapping[str, Any]


@dataclass(frozen=True)
class ModelFiles:
    """The files in a model's folder; `read` raises `StorageError`, or an error of the hub."""

    field: str
    """The job's field that names the model, for error messages."""
    names: frozenset[str]
    """Paths relative to the folder."""
    read: Callable[[str], bytes]
    """Returns the content of a file by its name."""

    def json(self, name: str) -> JsonObject:
        """The object in a JSON file.

        Raises:
            BadModelError: The file is missing, is not JSON or holds no object.
        """
        if name not in self.names:
            raise BadModelError(f"{self.field}: {name} is missing; copy the whole model")
        try:
            content = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise BadModelError(
                f"{self.field}: {name} is not JSON ({error}); copy it again"
            ) from error
        if not isinstance(content, dict):
            raise BadModelError(f"{self.field}: {name} holds no JSON object; copy it again")
        return content


def open_files(model: Model, storage: Storage, field: str = FIELD) -> ModelFiles:
    """The model's folder in storage, on this machine, or on the hub.

    Raises:
        BadModelError: The folder is empty, or the hub refuses.
        TrainerError: The hub cannot be reached.
        StorageError: The folder cannot be listed.
    """
    if model.source.startswith("hf://"):
        return _open_on_hub(model, field)
    uri = f"file://{model.source}" if model.source.startswith("/") else model.source
    names = frozenset(item.relative for item in storage.list(uri, field=field))
    if not names:
        raise BadModelError(
            f"{field}: there is nothing at {model.source}; correct it, or copy the model"
        )
    return ModelFiles(field, names, lambda name: storage.read(join(uri, name), field=field))


def _open_on_hub(model: Model, field: str) -> ModelFiles:
    name, api = model.source.removeprefix("hf://"), HfApi()

    def read(file: str) -> bytes:
        path = api.hf_hub_download(name, file, revision=model.revision)
        return Path(path).read_bytes()

    try:
        names = api.list_repo_files(name, revision=model.revision)
    except HUB_ERRORS as error:
        raise hub_error(model, field, error) from error
    return ModelFiles(field, frozenset(names), read)
