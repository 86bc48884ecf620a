"""How far a job is, as rank 0 of its trainer says over HTTP."""

import http.client
import threading
from types import TracebackType

from dreambooth_api.contract.progress import Progress, UnreadableProgressError

ANSWER_LIMIT = 1 << 20


class ProgressUnavailableError(Exception):
    """Nobody answers, or not with progress. Usual while a job starts and while it ends."""


TrainerProgress = Progress


def read_progress(address: str, port: int, timeout: float = 2.0) -> TrainerProgress:
    """Ask rank 0's pod at `address`:`port`; raises `ProgressUnavailableError`."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", "/progress")
        answer = connection.getresponse()
        body = answer.read(ANSWER_LIMIT)
        if answer.status != 200:
            raise ProgressUnavailableError(f"{address}:{port} answers {answer.status}")
        return Progress.decode(body)
    except (OSError, http.client.HTTPException, UnreadableProgressError) as error:
        raise ProgressUnavailableError(f"{address}:{port}: {error}") from error
    finally:
        connection.close()


class ProgressWatch:
    """Asks in the background, so that a slow answer holds nobody up; a context manager."""

    def __init__(self, address: str, port: int, every_seconds: float = 0.5) -> None:
        self.latest: TrainerProgress | None = None
        self._place = (address, port)
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="progress", daemon=True)

    def __enter__(self) -> "ProgressWatch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.latest = read_progress(*self._place)
            except ProgressUnavailableError:
                continue
