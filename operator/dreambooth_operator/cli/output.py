"""Where commands write: refused before anything is done that would be lost."""

import tempfile
from contextlib import suppress
from pathlib import Path

from dreambooth_operator.errors import UserError


def check_folder(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, which need not be there; none is left behind.

    Args:
        folder: As it was given.
        option: The option that it was given with, for messages.

    Raises:
        UserError: They cannot.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {folder}: cannot be written to ({error.strerror}); name another folder"
        ) from error
    finally:
        for each in created:
            with suppress(OSError):
                each.rmdir()
