"""Errors that the user of the command line, or of the operator's settings, can correct."""

import shlex
import sys

USAGE_EXIT_CODE = 2
"""Exit code of a command that was given wrong input."""


class UserError(Exception):
    """An error that the user can correct; the message names the problem and what to do.

    The command line prints it and exits with `USAGE_EXIT_CODE`.
    """


def install_command(requirement: str) -> str:
    """The command that installs a package beside this program, whatever `pip` the shell finds."""
    return shlex.join([sys.executable, "-m", "pip", "install", requirement])
