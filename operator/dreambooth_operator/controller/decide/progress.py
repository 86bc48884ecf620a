"""The training as the status shows it: progress, checkpoints and artifacts."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.message import BestCheckpoint, Checkpoint
from dreambooth_api.contract.progress import Progress
from dreambooth_api.contract.times import human_duration
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.status import (
    Artifacts,
    BestStatus,
    CheckpointStatus,
    ProgressStatus,
    Status,
)
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.kube.job_snapshots import JobSnapshot
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot


def report_progress(builder: DecisionBuilder, job: JobSnapshot) -> None:
    """Report the newest reading of an attempt (status.progress and its conditions).

    Without an answer, progress stays as it was.
    """
    reading = builder.observed.reading
    if reading is None or reading.time < job.active_since:  # of an earlier attempt
        return
    if reading.progress is None:
        reason = Reason.UNREADABLE if reading.unreadable else Reason.NO_ANSWER
        builder.set_condition(ConditionType.PROGRESS_KNOWN, "False", reason, reading.problem)
    # The address of a pod that is gone may belong to a pod of another attempt.
    elif reading.progress.attempt == job.attempt:
        message = "rank 0 reports its progress"
        builder.set_condition(ConditionType.PROGRESS_KNOWN, "True", Reason.ANSWERS, message)
        _report_saves(builder, reading.progress)
        _update_progress(builder, reading.progress)


def _report_saves(builder: DecisionBuilder, progress: Progress) -> None:
    failed = f"{progress.failed_saves} failed save{'' if progress.failed_saves == 1 else 's'}"
    # A failed save does not end the training, so only a condition can warn of it.
    if progress.save_problem is not None:
        message = (
            f"{failed} in this attempt; training goes on. The last one: {progress.save_problem}"
        )
        builder.set_condition(ConditionType.CHECKPOINTS_SAVED, "False", Reason.SAVE_FAILED, message)
    elif progress.last_checkpoint is not None:
        message = "the last save succeeded"
        if progress.failed_saves:
            message += f", after {failed} in this attempt"
        if progress.save_warning:
            message += f"; {progress.save_warning}"
        builder.set_condition(ConditionType.CHECKPOINTS_SAVED, "True", Reason.SAVED, message)


def _update_progress(builder: DecisionBuilder, progress: Progress) -> None:
    """Put progress into the status, at most every `Policy.progress_seconds`.

    A new stage or checkpoint does not wait.
    """
    old = builder.status
    new = old.model_copy(
        update={
            "stage": progress.stage,
            "progress": _progress_status(progress, old.progress, builder.now),
            "last_checkpoint": _checkpoint_status(progress.last_checkpoint, old.last_checkpoint),
            "best": _best_status(progress.best, old.best),
            "artifacts": _with_samples(old.artifacts, progress.samples),
        }
    )
    # Each write goes to etcd and to every watch: of a thousand jobs, one a second each is too much.
    urgent = new.stage != old.stage or new.last_checkpoint != old.last_checkpoint
    wait = 0.0 if urgent or new == old else _seconds_until_write(builder)
    if wait > 0:
        builder.requeue_after(wait)
    else:
        builder.status = new


def _seconds_until_write(builder: DecisionBuilder) -> float:
    written = builder.status.progress.updated_at if builder.status.progress else None
    every = builder.policy.progress_seconds
    if written is None or written > builder.now + timedelta(seconds=every):  # not a time of ours
        return 0
    return every - (builder.now - written).total_seconds()


def _progress_status(
    progress: Progress, old: ProgressStatus | None, now: datetime
) -> ProgressStatus:
    """Progress as the status has it; `updatedAt` is when it last changed."""
    eta = progress.eta_seconds
    new = ProgressStatus(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=_number(progress.loss),
        images_per_second=_number(progress.images_per_second),
        eta=None if eta is None else human_duration(eta),
        updated_at=old.updated_at if old else None,
    )
    return new if new == old else new.model_copy(update={"updated_at": now})


def _number(value: float | None) -> str | None:
    """Four significant digits: 0.01234."""
    return None if value is None else f"{value:.4g}"


def _checkpoint_status(
    checkpoint: Checkpoint | None, old: CheckpointStatus | None
) -> CheckpointStatus | None:
    """The newest checkpoint as the status has it; `old` where there is none."""
    if checkpoint is None:
        return old
    # Only a later step shows that the training gets on.
    refusals = old.refusals if old and checkpoint.step <= old.step else 0
    return CheckpointStatus(
        step=checkpoint.step,
        uri=checkpoint.uri,
        time=checkpoint.time,
        refusals=refusals,
        total_refusals=old.total_refusals if old else 0,
    )


def _best_status(best: BestCheckpoint | None, old: BestStatus | None) -> BestStatus | None:
    """The best checkpoint as the status has it; `old` where there is none."""
    if best is None:
        return old
    return BestStatus(step=best.step, score=f"{best.score:.4g}")


def _with_samples(artifacts: Artifacts | None, samples: list[str]) -> Artifacts | None:
    if not samples:
        return artifacts
    return (artifacts or Artifacts()).model_copy(update={"samples": samples[-1]})


def add_final_report(status: Status, pods: Iterable[PodSnapshot]) -> Status:
    """The status with what an attempt reported at its end.

    It comes from the termination messages of the pods, as no poll may have followed: the checkpoint
    that was saved last, the best one, and why training ended before its last step.
    """
    last, best, record = status.last_checkpoint, status.best, status.attempts[-1]
    for pod in pods:
        saved = pod.termination.checkpoint
        if saved and (last is None or saved.step > last.step):
            last = _checkpoint_status(saved, last)
        best = _best_status(pod.termination.best, best)
        if pod.termination.stopped_early and record.outcome == "Succeeded":
            record = record.model_copy(update={"reason": pod.termination.stopped_early})
    attempts = [*status.attempts[:-1], record]
    return status.model_copy(update={"last_checkpoint": last, "best": best, "attempts": attempts})


def report_push(builder: DecisionBuilder, pods: Iterable[PodSnapshot]) -> None:
    """Report whether the export is on the hub (condition PushedToHub), as its pod says."""
    for push in (pod.termination.push for pod in pods):
        if push is not None and push.problem:
            message = f"{push.repository}: {push.problem}"
            builder.set_condition(ConditionType.PUSHED_TO_HUB, "False", Reason.PUSH_FAILED, message)
        elif push is not None:
            message = f"the export is on the hub as {push.repository}"
            builder.set_condition(ConditionType.PUSHED_TO_HUB, "True", Reason.PUSHED, message)


def complete_progress(status: Status, job: DreamBoothJob) -> Status:
    """The status of a job that succeeded (status.progress, status.artifacts).

    All steps are done, unless training was stopped early, and the export exists, even where the
    last poll came before that.
    """
    layout = output_layout(job)
    artifacts = (status.artifacts or Artifacts()).model_copy(
        update={"output": layout.root, "export": layout.export, "report": layout.report}
    )
    progress = status.progress or ProgressStatus(total_steps=job.spec.training.steps)
    step = progress.total_steps
    if stopped_early(status) and status.last_checkpoint:
        step = status.last_checkpoint.step
    progress = progress.model_copy(update={"step": step, "eta": None})
    return status.model_copy(update={"artifacts": artifacts, "progress": progress})


def stopped_early(status: Status) -> str:
    """Why training ended before its last step (spec.evaluation.earlyStopping); empty: it did not.

    Args:
        status: Of a job whose newest attempt has succeeded.
    """
    return status.attempts[-1].reason if status.attempts else ""


def add_output(status: Status, job: DreamBoothJob) -> Status:
    """The status with the folder of the run (status.artifacts.output)."""
    if status.artifacts and status.artifacts.output:
        return status
    return status.model_copy(update={"artifacts": Artifacts(output=output_layout(job).root)})
