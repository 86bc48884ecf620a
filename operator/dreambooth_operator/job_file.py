"""Job files, with errors for the terminal."""

from pathlib import Path

from dreambooth_api.job import DreamBoothJob
from dreambooth_api.load import InvalidJob, load
from dreambooth_operator.errors import UserError


def read_job(path: Path) -> DreamBoothJob:
    """The job in a file; raises `UserError` that lists every problem."""
    try:
        return load(path)
    except InvalidJob as error:
        raise UserError(f"{path} is not a valid job:\n{error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
