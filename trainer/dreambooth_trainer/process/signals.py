"""Being asked to stop.

SIGTERM only raises a flag; the work in hand is finished, saved, and the process exits with 143.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dreambooth_trainer.process.errors import STOPPED_EXIT_CODE

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """The trainer was asked to stop, and everything worth keeping is saved."""

    exit_code = STOPPED_EXIT_CODE


class StopSignal:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT, in place of whoever listened before."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, being asked to stop ends the process at once: for waits in C code, which would
        not hear of it, while there is no state to save. Raises `StoppedError` when asked before.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        try:
            if self.requested:
                raise StoppedError("asked to stop before training had begun; nothing to save")
            yield
        finally:
            self.install()
