"""Which messages of libraries reach the log."""

import logging
import os

CHATTY = ("httpx", "botocore", "boto3", "s3transfer", "urllib3", "PIL")
"""Libraries that log each request or file."""


def quiet_libraries() -> None:
    """Leave out messages that users can do nothing about; call it before the imports."""
    # About image processors and safety checkers, which are not used here.
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.WARNING)
    # On CPUs with bf16: a kernel of the hub is missing, which nothing here needs.
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
