"""Job files: YAML text in; out comes a valid DreamBoothJob, or a message for every error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from pydantic import ValidationError

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.hidden_errors import hidden_errors
from dreambooth_api.parsing.messages import messages
from dreambooth_api.schema.base import ACCEPTED

MAX_BYTES = 262_144
"""Largest job file: the size that `kubectl apply` can keep in an annotation."""


class InvalidJobError(ValueError):
    """A job that cannot be run; raised by `load` and `parse`.

    Each of its messages is one line: `field: what is wrong; what to do`.
    """

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def load(source: str | Path | BinaryIO, *, check_rules: bool = True) -> DreamBoothJob:
    """Read a job from a path, an open file, or YAML text (a string of more than one line).

    Args:
        source: The file.
        check_rules: As of `parse`.

    Raises:
        InvalidJobError: The file cannot be read, or is not one valid job; with every error.
    """
    return parse(_document(_text(source)), check_rules=check_rules)


def parse(data: Any, *, check_rules: bool = True) -> DreamBoothJob:
    """Check a job that is already an object, as the API server returns it.

    Args:
        data: The object.
        check_rules: False for the job of a run that has begun, whatever rules have come since.

    Raises:
        InvalidJobError: It is not a valid job; with every error.
    """
    if not isinstance(data, Mapping):
        raise InvalidJobError("job: must be a mapping; write apiVersion, kind, metadata and spec")
    context = None if check_rules else ACCEPTED
    try:
        return DreamBoothJob.model_validate(
            dict(data), by_alias=True, by_name=False, context=context
        )
    except ValidationError as error:
        hidden = hidden_errors(data, error) if check_rules else ()
        found = dict.fromkeys([*messages(error), *hidden])
        raise InvalidJobError(*found) from error


def dump(job: DreamBoothJob) -> str:
    """Write the job as YAML with every default filled in, without its status."""
    return yamljson.dump(resolved(job))


def _text(source: str | Path | BinaryIO) -> str:
    # A job hardly fits on one line, and a path has no line break.
    if isinstance(source, str) and "\n" in source:
        return source
    name = str(source) if isinstance(source, str | Path) else "the input"
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                data = _read(file)
        else:
            data = _read(source)
        text = data.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise InvalidJobError(f"{name}: {reason}; name a readable YAML file") from error
    if len(data) > MAX_BYTES:
        raise InvalidJobError(
            f"{name}: has more than {MAX_BYTES} bytes, which no job needs; shorten it"
        )
    return text


def _read(file: BinaryIO) -> bytes:
    # One byte more shows that the file is too long, whatever its size: it may be /dev/zero.
    return file.read(MAX_BYTES + 1)


def _document(text: str) -> Any:
    """The only document of a YAML text."""
    try:
        jobs = [document for document in yamljson.documents(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidJobError(_syntax_message(error)) from error
    except RecursionError as error:
        raise InvalidJobError("job: is nested too deeply to be read; flatten it") from error
    if len(jobs) != 1:
        raise InvalidJobError(f"job: expected one job in the file, got {len(jobs)}; keep one")
    return jobs[0]


def _syntax_message(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "cannot be read"
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
    return f"{where}: not valid YAML: {what}; correct it there"
