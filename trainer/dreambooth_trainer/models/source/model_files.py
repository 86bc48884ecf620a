"""Access to single files of a model in storage, without downloading its weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_storage import Storage, join
from dreambooth_trainer.process.errors import BadModelError

FIELD = "spec.model.source"
WEIGHTS_SUFFIX = ".safetensors"

JsonObject = Mapping[str, Any]


@dataclass(frozen=True)
class ModelFiles:
    """The files in a model's folder.

    Reading raises `StorageError`, or for the hub `BadModelError` or `TrainerError`.
    """

    source: str
    """The model as the job names it, for error messages."""
    field: str
    """The job's field that names the model, for error messages."""
    sizes: Mapping[str, int]
    """Bytes of every file, by its path relative to the folder."""
    read: Callable[[str], bytes]
    """Returns the content of a file by its name."""
    read_start: Callable[[str, int], bytes]
    """Returns the first bytes of a file by its name, at most as many as are asked for."""

    @property
    def names(self) -> frozenset[str]:
        """Paths relative to the folder."""
        return frozenset(self.sizes)

    def json(self, name: str) -> JsonObject:
        """The object in a JSON file.

        Raises:
            BadModelError: The file is missing, is not JSON or holds no object.
        """
        if name not in self.sizes:
            raise BadModelError(
                f"{self.field}: {name} of {self.source} is missing; copy the whole model"
            )
        content = self.read(name)
        if is_lfs_pointer(content):
            raise BadModelError(f"{self.field}: {name} of {self.source} {LFS_PROBLEM}")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadModelError(
                f"{self.field}: {name} of {self.source} is not JSON ({error}); copy it again"
            ) from error
        if not isinstance(value, dict):
            raise BadModelError(
                f"{self.field}: {name} of {self.source} holds no JSON object; copy it again"
            )
        return value


LFS_PROBLEM = "is a git-lfs pointer, not the file; run `git lfs pull` in the clone, and copy again"


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that starts so only points to its content (git-lfs specification v1)."""
    return start.startswith(b"version https://git-lfs.github.com/spec/")


def list_files(
    uri: str, storage: Storage, field: str = FIELD, only: str | None = None
) -> ModelFiles:
    """The files in a folder of storage, or of this machine; there, one alone on request.

    A folder of models may be large, and the folder of a mounted file is `/`.

    Raises:
        StorageError: The folder cannot be listed.
    """
    folder = uri if "://" in uri else f"file://{uri}"
    if only is None:
        sizes = {each.relative: each.size for each in storage.list(folder, field=field)}
    else:
        path = Path(folder.removeprefix("file://"), only)
        sizes = {only: path.stat().st_size} if storage.exists(f"file://{path}", field=field) else {}
    return ModelFiles(
        uri,
        field,
        sizes,
        lambda name: storage.read(join(folder, name), field=field),
        lambda name, length: storage.read_start(join(folder, name), length, field=field),
    )
