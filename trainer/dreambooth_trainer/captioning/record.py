"""captions.json: every answer of a run, so that no attempt asks for one again.

An answer is kept under a hash of all that it depends on. Those of other settings stay: a job whose
settings are changed back finds what it was trained with.
"""

import logging
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_storage import ObjectNotFoundError, Storage

log = logging.getLogger(__name__)

FIELD = "spec.output"


class Written(BaseModel):
    """An answer, as the run uses it."""

    model_config = ConfigDict(extra="forbid")

    of: str
    """What was asked about, for people: `sks/0.jpg: caption`."""
    lines: list[Annotated[str, Field(max_length=2000)]]
    """One caption, or prompts, or warnings about a photo."""


class _Document(BaseModel):
    format: Literal[1] = 1
    answers: dict[str, Written]


def read_answers(storage: Storage, layout: OutputLayout) -> dict[str, Written]:
    """The answers so far, by their hash. A damaged file counts as none, which is logged.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        data = storage.read(layout.captions, field=FIELD)
        return _Document.model_validate_json(data).answers
    except ObjectNotFoundError:
        return {}
    except ValidationError as error:
        log.warning("%s cannot be read (%s): it is replaced", layout.captions, error)
        return {}


def write_answers(storage: Storage, layout: OutputLayout, answers: Mapping[str, Written]) -> None:
    """Write all answers. Rank 0 alone, once it owns the output.

    Raises:
        StorageError: They cannot be written.
    """
    document = _Document(answers=dict(answers)).model_dump_json(indent=2)
    storage.write(layout.captions, document.encode())
