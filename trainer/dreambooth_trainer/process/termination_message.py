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

    An `OSError` is ignored: the exit code still says enough.
    """
    path = Path(os.environ.get(environment.TERMINATION_LOG, DEFAULT_PATH))
    if not path.parent.is_dir():
        return
    with suppress(OSError):
        # The kubelet creates the file empty. Under torchrun, all ranks of a pod share it: the first
        # that fails knows the reason, and the others only report a broken connection.
        if not path.exists() or not path.read_text().strip():
            path.write_bytes(termination.encode())
