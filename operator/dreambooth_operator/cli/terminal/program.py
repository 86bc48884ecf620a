"""How this program is called, for commands that messages tell the user to run."""

import os
import shlex
import shutil
import sysconfig
from pathlib import Path

NAME = "dreambooth"


def command_line(*arguments: str) -> str:
    """A command of this program that can be pasted into the shell that started it."""
    return shlex.join([_program(), *arguments])


def _program() -> str:
    """`dreambooth` where PATH leads to this installation, else the path of its script."""
    installed = Path(sysconfig.get_path("scripts")) / NAME
    found = shutil.which(NAME)
    if not installed.exists() or (found and Path(found).samefile(installed)):
        return NAME
    relative = os.path.relpath(installed)
    return str(installed) if relative.startswith(os.pardir) else relative
