"""Requests to stop.

SIGTERM only sets a flag. The trainer finishes the current step, saves its state and exits with
`ExitCode.STOPPED`.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dreambooth_api.contract.exit_codes import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """The trainer was asked to stop, and its state is saved."""

    exit_code = ExitCode.STOPPED


class StopSignal:
    """The flag that SIGTERM and SIGINT set; `requested` may be read from any thread."""

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
        """Let a signal end the process immediately, while there is no state to save.

        Raises:
            StoppedError: A stop was requested before.
        """
        # Python runs a handler only between bytecodes: during a wait in C code, it never would.
        before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
        try:
            # Checked after the change, or a signal in between would be missed.
            if self.requested:
                raise StoppedError("asked to stop; nothing is left to save")
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
