"""Reads job files, with errors for the terminal."""

import sys
from pathlib import Path
from typing import Any

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import InvalidJobError, load, parse
from dreambooth_operator.errors import UserError

STANDARD_INPUT = Path("-")


def read_job(path: Path, *, check_rules: bool = True) -> DreamBoothJob:
    """Read the job in a file, or on standard input (`-`).

    Args:
        path: Of the file.
        check_rules: False for the job of a run that has begun, whatever rules have come since.

    Raises:
        UserError: It is not a valid job; the message lists every problem.
    """
    from_input = path == STANDARD_INPUT
    try:
        return load(sys.stdin.buffer if from_input else path, check_rules=check_rules)
    except InvalidJobError as error:
        raise _listed("standard input" if from_input else str(path), error) from error


def check_job(document: Any, what: str, *, check_rules: bool = True) -> DreamBoothJob:
    """Validate a job document.

    Args:
        document: The job.
        what: Its name in the message.
        check_rules: As of `read_job`.

    Raises:
        UserError: It is not a valid job; the message lists every problem.
    """
    try:
        return parse(document, check_rules=check_rules)
    except InvalidJobError as error:
        raise _listed(what, error) from error


def _listed(what: str, error: InvalidJobError) -> UserError:
    lines = "".join(f"\n  {problem}" for problem in error.messages)
    return UserError(f"{what} is not valid:{lines}")
