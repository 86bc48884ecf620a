"""Reads job files, with errors for the terminal."""

from pathlib import Path
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load, parse
from dreambooth_operator.errors import UserError


def read_job(path: Path) -> DreamBoothJob:
    """Read the job in a file.

    Raises:
        UserError: It is not a valid job; the message lists every problem.
    """
    try:
        return load(path)
    except InvalidJobError as error:
        raise _listed(str(path), error) from error


def check_job(document: Any, what: str) -> DreamBoothJob:
    """Validate a job document; `what` is its name in the message.

    Raises:
        UserError: It is not a valid job; the message lists every problem.
    """
    try:
        return parse(document)
    except InvalidJobError as error:
        raise _listed(what, error) from error


def _listed(what: str, error: InvalidJobError) -> UserError:
    lines = "".join(f"\n  {problem}" for problem in error.messages)
    return UserError(f"{what} is not valid:{lines}")
