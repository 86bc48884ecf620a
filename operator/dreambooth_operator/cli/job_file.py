"""Job files, with errors for the terminal."""

from pathlib import Path
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load, parse
from dreambooth_operator.errors import UserError


def read_job(path: Path) -> DreamBoothJob:
    """The job in a file; raises `UserError` that lists every problem."""
    try:
        return load(path)
    except InvalidJobError as error:
        raise _listed(str(path), error) from error


def checked(document: Any, what: str) -> DreamBoothJob:
    """The job in a document that is called `what`; raises `UserError` that lists every problem."""
    try:
        return parse(document)
    except InvalidJobError as error:
        raise _listed(what, error) from error


def _listed(what: str, error: InvalidJobError) -> UserError:
    lines = "".join(f"\n  {problem}" for problem in error.problems)
    return UserError(f"{what} is not valid:{lines}")
