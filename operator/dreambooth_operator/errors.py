"""Errors that the user of the command line can do something about."""


class UserError(Exception):
    """Something that the user can put right. The message says what is wrong and what to do."""
