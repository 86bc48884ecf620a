"""The state folder of local runs: record, manifests and logs of each, and the embedded storage.

<state>/runs/<name>-<first 8 of uid>/  run.json, attempt-0.yaml, pod-0.log ..., results/
<state>/s3/                            the embedded SeaweedFS
<state>/uploads.json                   what `--upload` has put into storage
"""

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.schema.base import ACCEPTED
from dreambooth_operator.errors import UserError

DEFAULT_STATE = Path(".dreambooth")

RunState = Literal["Running", "Succeeded", "Failed", "Stopped", "Interrupted"]
"""`Interrupted`: its process was killed, and could not record how the run ended."""


class RunRecord(BaseModel):
    """One run of a job on this machine, as stored in run.json."""

    job: DreamBoothJob
    """The job as the user wrote it, with the run's uid."""
    embedded: bool
    """Whether its objects are in the embedded storage."""
    started: datetime
    attempts: int = 0
    """Attempts started; the next one has this number."""
    state: RunState = "Running"
    checkpoint: Checkpoint | None = None
    """The newest durable checkpoint that the trainer has reported, in any attempt."""
    seconds: float = 0.0
    """How long it ran, together with the times it was resumed."""
    failure: str = ""
    """Why it failed last; empty when it did not."""


class Run:
    """A run's folder and its record."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record

    @property
    def job(self) -> DreamBoothJob:
        """The job as the user wrote it, with the run's uid."""
        return self.record.job

    @property
    def results(self) -> Path:
        """Folder of the results that were downloaded."""
        return self.folder / "results"

    def is_of(self, name: str, namespace: str | None) -> bool:
        """Whether it is a run of the job of that name; a namespace of None stands for any."""
        found = self.job.metadata
        return found.name == name and namespace in (None, found.namespace)

    @property
    def has_progress(self) -> bool:
        """Whether there may be something to resume: the last checkpoint may not be recorded yet."""
        return self.record.checkpoint is not None or self.record.state == "Interrupted"

    @property
    def resume_point(self) -> str:
        """Where the next attempt begins, for messages."""
        if self.record.checkpoint is not None:
            return f"from the checkpoint of step {self.record.checkpoint.step}"
        if self.has_progress:
            return "from the last checkpoint, if there is one"
        return "from the beginning"

    def record_checkpoint(self, checkpoint: Checkpoint | None) -> None:
        """Record a durable checkpoint that the trainer reports; None: it has not made one yet."""
        if checkpoint is None or checkpoint == self.record.checkpoint:
            return
        self.record.checkpoint = checkpoint
        # It is only read to choose a run and for messages: a full disk must not end the training.
        with suppress(OSError):
            self.save()

    def save(self) -> None:
        """Write the record, whole or not at all.

        Raises:
            OSError: The folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.record.model_dump_json(indent=2, by_alias=True, exclude_none=True)
        temporary = self.folder / "run.json.part"
        temporary.write_text(text)
        # A rename is atomic, while a write that is interrupted leaves half a file.
        temporary.replace(self.folder / "run.json")


class State:
    """The state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.storage = self.folder / "s3"
        self.uploads = self.folder / "uploads.json"
        self._runs = self.folder / "runs"
        self._lock = self.folder / "lock"

    def new_run(self, job: DreamBoothJob, *, embedded: bool) -> Run:
        """Create a run with a uid of its own, as the API server assigns one (meta/v1 ObjectMeta).

        Raises:
            OSError: The state folder cannot be written to.
        """
        job = job.model_copy(deep=True)  # the caller's job stays without a uid
        job.metadata.uid = str(uuid.uuid4())
        record = RunRecord(job=job, embedded=embedded, started=datetime.now(UTC))
        run = Run(self._runs / f"{job.metadata.name}-{job.metadata.uid[:8]}", record)
        run.save()
        return run

    def latest_run(self, name: str, namespace: str | None = None) -> Run | None:
        """The newest run of the job of that name; None where there is none.

        A namespace of None stands for any.
        """
        return next((run for run in self.runs() if run.is_of(name, namespace)), None)

    def run_of(self, uid: str | None) -> Run | None:
        """The run with a uid; None where it is not of this folder."""
        return next((run for run in self.runs() if run.job.metadata.uid == uid), None)

    def earlier_runs(self, job: DreamBoothJob) -> list[Run]:
        """The runs of a job before its newest one, the newest first."""
        meta = job.metadata
        runs = [run for run in self.runs() if run.is_of(meta.name, meta.namespace)]
        return [run for run in runs if run.job.metadata.uid != meta.uid]

    def run_to_resume(self, name: str, namespace: str) -> Run | None:
        """The newest run of the job that succeeded or has progress; without one, the newest.

        A run that was refused, or stopped before its first checkpoint, must not hide an earlier
        one.
        """
        runs = [run for run in self.runs() if run.is_of(name, namespace)]
        started = (run for run in runs if run.has_progress or run.record.state == "Succeeded")
        return next(started, next(iter(runs), None))

    def runs(self) -> list[Run]:
        """The runs that have started an attempt, the newest first.

        Others, whose upload failed for example, hold nothing, and must not hide an earlier run.
        Records of other versions are left out.
        """
        runs = (run for run in self._all_runs() if run.record.attempts)
        return sorted(runs, key=lambda run: run.record.started, reverse=True)

    def _all_runs(self) -> Iterator[Run]:
        for path in self._runs.glob("*/run.json"):
            try:
                record = RunRecord.model_validate_json(path.read_bytes(), context=ACCEPTED)
                yield Run(path.parent, record)
            # A record of another version, or one that is damaged or was just deleted.
            except (ValidationError, FileNotFoundError):
                continue

    def running(self) -> Run | None:
        """The run that another process executes now, even if its first attempt is yet to start."""
        if not self.is_locked():
            return None
        return next((run for run in self._all_runs() if run.record.state == "Running"), None)

    def wipe(self) -> None:
        """Delete all runs and the embedded storage."""
        for folder in (self._runs, self.storage):
            shutil.rmtree(folder, ignore_errors=True)
        self.uploads.unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """Whether a process holds the lock: it runs a job, or uses the embedded storage."""
        if not self._lock.exists():
            return False
        with self._lock.open() as lock:
            try:
                # Shared, so that two who ask at a time do not take each other for a run.
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder: only one process may write to the embedded storage.

        Runs of processes that were killed are then recorded as interrupted.

        Raises:
            UserError: Another process holds the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Beside the folders, which --fresh deletes while it holds the lock.
        with self._lock.open("a") as lock:
            try:
                # The kernel releases the lock when the process dies, however it dies.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(
                    f"{self.folder} is in use by another `dreambooth`;"
                    " wait for it, or name another folder with --state"
                ) from error
            for run in self._all_runs():
                if run.record.state == "Running":
                    run.record.state = "Interrupted"
                    run.save()
            yield
