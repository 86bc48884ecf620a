"""Checks whether the images and captions can be trained on."""

from dreambooth_storage import Storage
from dreambooth_trainer.data.images import load_images
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


def check_other_images(job: ResolvedJob, storage: Storage, report: PreflightReport) -> None:
    """Check the first of the user's class images, and of the images for the evaluation."""
    prior = job.spec.prior
    folders = {}
    if prior.enabled and prior.images:
        folders["spec.prior.images"] = prior.images, prior.count
    for index, subject in enumerate(job.spec.subjects):
        if job.spec.evaluation and subject.evaluation_images:
            field = f"spec.subjects[{index}].evaluationImages"
            folders[field] = subject.evaluation_images, SAMPLE_SIZE
    for field, (uri, wanted) in folders.items():
        count = min(wanted, SAMPLE_SIZE)
        with report.collecting():
            loaded = load_images(
                storage, uri, field=field, resolution=job.spec.training.resolution, count=count
            )
            report.warnings += [loaded.report(field)] if loaded.rejected else []
            files = len(loaded.images) + loaded.unread
            if field == "spec.prior.images" and files > wanted:
                report.warnings.append(
                    f"spec.prior.count: {wanted} class images are trained on, and {files} are in"
                    f" {uri}; set it to {files} to use them all"
                )
