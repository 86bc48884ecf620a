"""Errors that the user of the command line, or of the operator's settings, can correct."""

USAGE_EXIT_CODE = 2
"""Exit code of a command that was given wrong input."""


class UserError(Exception):
    """An error that the user can correct; the message names the problem and what to do.

    The command line prints it and exits with `USAGE_EXIT_CODE`.
    """
