"""The termination message: what Kubernetes shows of a container that has ended."""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "DREAMBOOTH_TERMINATION_LOG"
LIMIT = 4000
"""Bytes. Kubernetes keeps the last 4096, and the first line is the one that matters."""


def leave(words: str) -> None:
    """Write the message, unless another rank was there before.

    The first rank of a pod to fail is the one that is heard: its peers only lose a connection.
    """
    path = Path(os.environ.get(VARIABLE, "/dev/termination-log"))
    if not path.parent.is_dir():
        return
    with suppress(OSError):
        if not path.exists() or not path.read_text().strip():
            path.write_bytes(words.encode()[:LIMIT].decode(errors="ignore").encode())
