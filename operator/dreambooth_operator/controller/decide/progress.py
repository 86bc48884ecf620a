"""What a status says of the training, from what rank 0 answered, and its last words."""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta

from dreambooth_api.contract.progress import Progress
from dreambooth_api.models.job import DreamBoothJob, output_prefix
from dreambooth_api.models.status import Artifacts, CheckpointStatus, ProgressStatus, Status
from dreambooth_operator.controller.kube.snapshots import PodSnapshot


def reported(status: Status, told: Progress, now: datetime, every: float) -> tuple[Status, float]:
    """The status with what rank 0 told, at most every so many seconds, and the seconds until what
    is held back may be written.

    A new stage or checkpoint is told at once.
    """
    new = status.model_copy(
        update={
            "stage": told.stage,
            "progress": _progress(told, status.progress, now),
            "last_checkpoint": _checkpoint(told) or status.last_checkpoint,
            "artifacts": _with_samples(status.artifacts, told),
        }
    )
    news = new.stage != status.stage or new.last_checkpoint != status.last_checkpoint
    wait = 0.0 if news or new == status else _seconds_to_report(status, now, every)
    return (status, wait) if wait > 0 else (new, 0.0)


def _seconds_to_report(status: Status, now: datetime, every: float) -> float:
    written = status.progress.updated_at if status.progress else None
    if written is None or written > now + timedelta(seconds=every):  # a time that was not ours
        return 0
    return every - (now - written).total_seconds()


def saved(status: Status, pods: Iterable[PodSnapshot]) -> Status:
    """The status with the checkpoint that an attempt made at its end: nobody may have asked for its
    progress after that, so its termination message tells of it.
    """
    last = status.last_checkpoint
    for pod in pods:
        saved = pod.termination.checkpoint
        if saved and (last is None or saved.step > last.step):
            last = CheckpointStatus(step=saved.step, uri=saved.uri, time=saved.time)
    return status.model_copy(update={"last_checkpoint": last})


def finished(status: Status, job: DreamBoothJob) -> Status:
    """The status of a job that has succeeded: all steps are done, and the export is there."""
    folder = output_prefix(job)
    artifacts = (status.artifacts or Artifacts()).model_copy(
        update={"output": folder, "export": f"{folder}/export"}
    )
    progress = status.progress or ProgressStatus(total_steps=job.spec.training.steps)
    done = {"step": progress.total_steps, "eta": None}
    return status.model_copy(
        update={"artifacts": artifacts, "progress": progress.model_copy(update=done)}
    )


def started(status: Status, job: DreamBoothJob) -> Status:
    """The status of a job that trains: where its results will be."""
    if status.artifacts and status.artifacts.output:
        return status
    return status.model_copy(update={"artifacts": Artifacts(output=output_prefix(job))})


def _progress(told: Progress, old: ProgressStatus | None, now: datetime) -> ProgressStatus:
    """What was told; its time is the one at which it changed."""
    new = ProgressStatus(
        step=max(told.step, 0),
        total_steps=max(told.total_steps, 0),
        loss=_number(told.loss),
        images_per_second=_number(told.images_per_second),
        eta=_eta(told.eta_seconds),
        updated_at=old.updated_at if old else None,
    )
    return new if new == old else new.model_copy(update={"updated_at": now})


def _checkpoint(told: Progress) -> CheckpointStatus | None:
    last = told.last_checkpoint
    if last is None:
        return None
    return CheckpointStatus(step=last.step, uri=last.uri, time=last.time.replace(microsecond=0))


def _with_samples(artifacts: Artifacts | None, told: Progress) -> Artifacts | None:
    if not told.samples:
        return artifacts
    return (artifacts or Artifacts()).model_copy(update={"samples": told.samples[-1]})


def _eta(seconds: float | None) -> str | None:
    return duration(seconds) if seconds is not None and math.isfinite(seconds) else None


def _number(value: float | None) -> str | None:
    """Four digits: 0.01234."""
    return None if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time span for people: 45s, 12m, 3h10m, 2d4h."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}m"
    days, hours = divmod(hours, 24)
    return f"{hours}h{minutes}m" if days == 0 else f"{days}d{hours}h"
