"""A rank's work in the background."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class BackgroundTask:
    """Work in a daemon thread, `delay` seconds after its creation.

    A daemon thread, unlike those of a ThreadPoolExecutor, does not keep the process from exiting.
    """

    def __init__(self, work: Callable[[], Any], delay: float = 0.0) -> None:
        self._work = work
        self._delay = delay
        self.future: Future[Any] = Future()
        threading.Thread(target=self._run, name="checkpoint-saver", daemon=True).start()

    def _run(self) -> None:
        time.sleep(self._delay)
        try:
            result = self._work()
        except Exception as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def retry(self, delay: float) -> "BackgroundTask":
        """A task with the same work after `delay` seconds if this one failed, else this one.

        A rank whose part of a phase succeeded keeps its result while other ranks retry.
        """
        return self if self.future.exception() is None else BackgroundTask(self._work, delay)
