"""Requests to stop.

SIGTERM only sets a flag; the step under way is finished, its state is saved, and the process exits
with `ExitCode.STOPPED`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dreambooth_api.contract.exit_codes import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """The trainer was asked to stop, and everything worth keeping is saved."""

    exit_code = ExitCode.STOPPED


class StopSignal:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Handle SIGTERM and SIGINT, in place of any handler that is installed."""
        for number in SIGNALS:
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    @contextmanager
    def default_action(self) -> Iterator[None]:
        """Let a signal end the process at once.

        For waits in C code, which never return to Python's handlers, while there is no state to
        save.

        Raises:
            StoppedError: A stop was requested before.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        try:
            if self.requested:
                raise StoppedError("asked to stop before training had begun; nothing to save")
            yield
        finally:
            self.install()
