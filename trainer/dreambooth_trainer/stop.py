"""Being asked to stop.

SIGTERM only raises a flag; the work in hand is finished, saved, and the process exits with 143.
"""

import signal
from types import FrameType

from dreambooth_trainer.errors import STOPPED_EXIT_CODE


class Stopped(Exception):
    """The trainer was asked to stop, and everything worth keeping is saved."""

    exit_code = STOPPED_EXIT_CODE


class StopSignal:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT, in place of whoever listened before."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raise `Stopped` when asked to stop; for the time before there is a state to save."""
        if self.requested:
            raise Stopped("asked to stop before training had begun; nothing to save")
