"""Checks whether the images and captions can be trained on."""

from dreambooth_storage import Storage
from dreambooth_trainer.data.images import load_images
from dreambooth_trainer.data.prior.own_class_images import FIELD, load_own_class_images
from dreambooth_trainer.data.subjects import load_subject
from dreambooth_trainer.preflight.prompts import Prompts
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.resolved_job import ResolvedJob

SAMPLE_SIZE = 64
"""Class images and evaluation images to check at most: there may be thousands."""


def check_subjects(job: ResolvedJob, storage: Storage, report: PreflightReport) -> Prompts:
    """Check every subject's images and captions.

    Returns:
        The captions, each with its field.
    """
    captions: Prompts = []
    for index, subject in enumerate(job.spec.subjects):
        with report.collecting():
            loaded = load_subject(storage, job, index)
            report.warnings += loaded.warnings
            report.notes += loaded.notes
            field = f"spec.subjects[{index}].{'captions' if subject.captions else 'images'}"
            captions += [(field, text) for text in dict.fromkeys(loaded.captions)]
    return captions


def check_class_images(job: ResolvedJob, storage: Storage, report: PreflightReport) -> Prompts:
    """Check the first of the user's class images, with their captions.

    Returns:
        The captions, each with its field.
    """
    prior = job.spec.prior
    with report.collecting():
        own = load_own_class_images(storage, job, count=SAMPLE_SIZE)
        report.warnings += [own.loaded.report(FIELD)] if own.loaded.rejected else []
        files = len(own.images) + own.loaded.unread
        if files > prior.count:
            report.warnings.append(
                f"spec.prior.count: {prior.count} class images are trained on, and {files} are in"
                f" {prior.images}; set it to {files} to use them all"
            )
        return [(FIELD, text) for text in dict.fromkeys(own.captions)]
    return []


def check_evaluation_images(job: ResolvedJob, storage: Storage, report: PreflightReport) -> None:
    """Check the first of the images for the evaluation."""
    for index, subject in enumerate(job.spec.subjects):
        if job.spec.evaluation is None or subject.evaluation_images is None:
            continue
        with report.collecting():
            field = f"spec.subjects[{index}].evaluationImages"
            loaded = load_images(
                storage,
                subject.evaluation_images,
                field=field,
                resolution=job.spec.training.resolution,
                count=SAMPLE_SIZE,
            )
            report.warnings += [loaded.report(field)] if loaded.rejected else []
