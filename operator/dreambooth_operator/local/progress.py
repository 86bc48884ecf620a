"""How far a job is, as rank 0 of its trainer says over HTTP."""

import http.client
import threading
from datetime import datetime
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from dreambooth_api.contract.stages import Stage

ANSWER_LIMIT = 1 << 20


class ProgressUnavailableError(Exception):
    """Nobody answers, or not with progress. Usual while a job starts and while it ends."""


class _Part(BaseModel):
    # A newer trainer may say more than this knows.
    model_config = ConfigDict(alias_generator=to_camel, validate_by_alias=True, extra="ignore")


class PriorProgress(_Part):
    """Class images that are there."""

    done: int
    total: int


class LastCheckpoint(_Part):
    """The newest durable checkpoint."""

    step: int
    uri: str
    time: datetime


class TrainerProgress(_Part):
    """The answer of `/progress`."""

    stage: Stage
    step: int
    total_steps: int
    attempt: int = 0
    world_size: int = 1
    loss: float | None = None
    subject_loss: float | None = None
    prior_loss: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    last_checkpoint: LastCheckpoint | None = None
    prior: PriorProgress | None = None
    samples: list[str] = []
    """Sample grids of this attempt, the newest last."""
    output: str | None = None
    """Folder of the run."""
    export: str | None = None
    """The model to take home, once it is complete."""
    updated_at: datetime | None = None


def read_progress(address: str, port: int, timeout: float = 2.0) -> TrainerProgress:
    """Ask rank 0's pod at `address`:`port`; raises `ProgressUnavailableError`."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", "/progress")
        answer = connection.getresponse()
        body = answer.read(ANSWER_LIMIT)
        if answer.status != 200:
            raise ProgressUnavailableError(f"{address}:{port} answers {answer.status}")
        return TrainerProgress.model_validate_json(body)
    except (OSError, http.client.HTTPException, ValidationError) as error:
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
