"""The file that Kubernetes reads a container's termination message from."""

import os
from contextlib import suppress
from pathlib import Path

from dreambooth_api.contract import environment
from dreambooth_api.contract.termination import Termination

DEFAULT_PATH = "/dev/termination-log"
"""core/v1 Container.terminationMessagePath, where nothing else is set."""


def write_termination(termination: Termination) -> None:
    """Write the termination message, unless there is one already.

    Under torchrun, all ranks of a pod share the file: the first one that fails keeps it, as its
    peers only lose a connection. A file that cannot be written is ignored.
    """
    path = Path(os.environ.get(environment.TERMINATION_LOG, DEFAULT_PATH))
    if not path.parent.is_dir():
        return
    with suppress(OSError):
        # The kubelet creates the file empty.
        if not path.exists() or not path.read_text().strip():
            path.write_bytes(termination.encode())
