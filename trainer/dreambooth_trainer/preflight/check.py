"""All checks of a job that need no GPU, in one report."""

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.advice import warnings as advice
from dreambooth_storage import Storage
from dreambooth_trainer.evaluation.clip_config import check_clip_config
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.preflight.images import check_other_images, check_subjects
from dreambooth_trainer.preflight.model import check_model
from dreambooth_trainer.preflight.prompts import check_lengths, sample_and_class_prompts
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.preflight.resources import check_grace_period, check_memory
from dreambooth_trainer.preflight.resume import check_source
from dreambooth_trainer.preflight.writing import check_writing


def check_job(job: DreamBoothJob, storage: Storage) -> PreflightReport:
    """Check everything that the job refers to. Writes and deletes small probes.

    Of weights, only headers and sizes are checked. Errors are collected in the report:
    `TrainerError` and `StorageError` are not raised.
    """
    report = PreflightReport(warnings=advice(job))
    check_writing(job, storage, report)
    # Every further check would wait for all retries, one after the other.
    if report.unreachable:
        report.warnings.append("images and model were not checked, as storage does not answer")
        return report
    check_source(job, storage, report)
    captions = check_subjects(job, storage, report)
    check_other_images(job, storage, report)
    clip = None
    if job.spec.evaluation:
        with report.collecting():
            clip = check_clip_config(job.spec.evaluation.model, storage)
    with report.collecting():
        config = read_model_config(job.spec.model, storage)
        if config is not None:
            report.warnings += check_lengths(config, captions + sample_and_class_prompts(job))
            check_model(job, config, report)
            report.warnings += check_grace_period(job, config)
            with report.collecting():
                report.warnings += check_memory(job, config, clip)
    return report
