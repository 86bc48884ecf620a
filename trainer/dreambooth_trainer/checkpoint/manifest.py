"""The manifest of a checkpoint and the entries of the log, and their validation when read back.

Every name must match a pattern without a slash, so that no manifest can point outside its folder.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel
from torch import Tensor

from dreambooth_trainer.process.errors import BadConfigError

FORMAT: Final = 1
"""Version of the format. It changes when an older trainer could misread a checkpoint."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ShardName = Annotated[str, StringConstraints(pattern=r"^shard-[0-9]{5}-of-[0-9]{5}\.safetensors$")]
FolderName = Annotated[str, StringConstraints(pattern=r"^step-[0-9]{8}-claim-[0-9]{4,8}$")]
Count = Annotated[int, Field(ge=0)]


class DamagedCheckpointError(ValueError):
    """A checkpoint is incomplete or damaged; an older one may be intact.

    A `ValueError`, as it is for pydantic and json: `restore` skips the checkpoint.
    """


class UnknownFormatError(BadConfigError):
    """A file of another version of the trainer.

    A `BadConfigError`, which ends the job: when it was skipped, training would silently continue
    from an older state.
    """


class Stored(BaseModel):
    """A JSON object in storage.

    Unknown fields are ignored: a format that must not be misread gets a new number.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        serialize_by_alias=True,
        frozen=True,
        allow_inf_nan=False,
    )

    format: Literal[1] = FORMAT

    def encode(self) -> bytes:
        """As JSON; equal values give equal bytes."""
        # None is left out, so that a new optional field does not change existing manifests.
        return json.dumps(
            self.model_dump(mode="json", exclude_none=True), indent=1, sort_keys=True
        ).encode()


class Piece(BaseModel):
    """A part of a tensor that is divided between shards, as flat elements."""

    start: Count
    """Index of its first element in the flattened tensor."""
    shape: list[Count]
    """Of the whole tensor."""


class Shard(BaseModel):
    """One safetensors file of a checkpoint; `size` in bytes, `sha256` in hexadecimal."""

    name: ShardName
    size: Count
    sha256: Sha256
    tensors: Count
    pieces: dict[str, Piece] = {}
    groups: list[str] | None = None
    """The starts of its tensors' names, such as `weight`, up to a slash; None: not known."""


class Manifest(Stored):
    """A checkpoint: its shards, and the state that they hold; sizes in bytes."""

    step: Count
    attempt: Count
    claim: Count
    world_size: Annotated[int, Field(ge=1)]
    time: str
    fingerprint: str = ""
    loss: float | None = None
    """Mean over the steps since the previous checkpoint whose losses were known at the save."""
    tensors: Count
    payload_bytes: Count
    total_bytes: Count
    shards: Annotated[list[Shard], Field(min_length=1)]


@dataclass(frozen=True)
class PendingManifest:
    """The part of a `Manifest` that is known before the shards are stored; sizes in bytes."""

    step: int
    tensors: int
    payload_bytes: int
    loss: float | None

    @classmethod
    def of(cls, step: int, tensors: Mapping[str, Tensor], loss: float | None) -> "PendingManifest":
        """The pending manifest of a state; a loss that is not finite is left out."""
        # JSON has no NaN, and `retention` compares losses.
        size = sum(tensor.nbytes for tensor in tensors.values())
        finite = loss if loss is not None and math.isfinite(loss) else None
        return cls(step, len(tensors), size, finite)


@dataclass(frozen=True)
class CheckpointRef:
    """A committed checkpoint."""

    step: int
    uri: str
    """Its folder."""
    number: int
    """Of its commit in the log (see `fence`)."""
    manifest: Manifest

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.uri.rpartition("/")[2]


class Entry(Stored):
    """One entry of the log of claims and commits (see `fence`)."""

    kind: Literal["claim", "commit"]
    attempt: Count
    claim: Count
    token: str
    time: str
    step: Count | None = None
    folder: FolderName | None = None
    manifest_sha256: Sha256 | None = None


def read_manifest(data: bytes, where: str) -> Manifest:
    """Parse a manifest.

    Raises:
        DamagedCheckpointError: It is not valid; the message starts with `where`.
        UnknownFormatError: It is of another format version.
    """
    _check_format(data, where)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{where} is not a valid manifest: {_first(error)}") from error


def read_entry(data: bytes, where: str) -> Entry:
    """Parse a log entry.

    Raises:
        DamagedCheckpointError: It is not valid; the message starts with `where`.
        UnknownFormatError: It is of another format version.
    """
    _check_format(data, where)
    try:
        return Entry.model_validate_json(data)
    except ValidationError as error:
        raise DamagedCheckpointError(
            f"{where} is not a valid log entry: {_first(error)}"
        ) from error


def _check_format(data: bytes, where: str) -> None:
    """Raise `UnknownFormatError` for another version, before the fields are validated.

    They would only give a confusing `DamagedCheckpointError`: the file is intact.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{where} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise DamagedCheckpointError(
            f"{where} is not a file of this project: it has no format version"
        )
    if document["format"] != FORMAT:
        raise UnknownFormatError(
            f"spec.output: {where} has format version {document['format']},"
            f" this trainer reads version {FORMAT}; use the trainer that wrote it, or a newer one"
        )


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
