"""The progress of an attempt in the pod's log, for `kubectl logs`."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dreambooth_trainer.telemetry.progress import ProgressState

LOG_SECONDS = 30.0
"""Longest time without a line."""

log = logging.getLogger(__name__)


def log_progress(progress: ProgressState) -> None:
    """Log one line: stage, steps or class images, loss, speed and time left."""
    now = progress.snapshot()
    log.info("  ".join([now.stage, *now.figures()]))


@contextmanager
def logging_progress(progress: ProgressState, interval: float = LOG_SECONDS) -> Iterator[None]:
    """Log a line every `interval` seconds, in a thread: some stages report nothing for minutes."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(interval):
            log_progress(progress)

    thread = threading.Thread(target=repeat, name="progress-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
