"""Reads job files, with errors for the terminal."""

import sys
from pathlib import Path
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load, parse
from dreambooth_operator.errors import UserError

STANDARD_INPUT = Path("-")


def read_job(path: Path) -> DreamBoothJob:
    """Read the job in a file, or on standard input (`-`).

    Raises:
        UserError: It is not a valid job; the message lists every problem.
    """
    from_input = path == STANDARD_INPUT
    try:
        return load(sys.stdin.buffer if from_input else path)
    except InvalidJobError as error:
        raise _listed("standard input" if from_input else str(path), error) from error


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
