"""Checks of the run that a job goes on from (spec.resumeFrom)."""

from dreambooth_api.models.job import output_layout
from dreambooth_storage import Storage
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.resolved_job import ResolvedJob
from dreambooth_trainer.resume.source import FIELD, config_differences, find_source


def check_source(job: ResolvedJob, storage: Storage, report: PreflightReport) -> None:
    """Check that the run exists and fits, and list what differs, one warning each.

    Once the job has a checkpoint of its own, the other run is not needed any more. Errors are
    collected in the report.
    """
    if job.spec.resume_from is None:
        return
    with report.collecting():
        if CheckpointStore(storage, output_layout(job).checkpoints).checkpoints():
            return
        source = find_source(job, storage)
        if source is None:
            return
        step, steps = source.checkpoint.step, job.spec.training.steps
        changed = config_differences(job, source)
        uri = source.checkpoint.uri
        report.notes.append(f"{FIELD}: goes on from step {step} of {steps}: {uri}")
        report.warnings += [f"{FIELD}: {line}" for line in changed]
        if step == steps:
            report.warnings.append(
                f"spec.training.steps: {steps} are done, and none is left to train; use more"
            )
