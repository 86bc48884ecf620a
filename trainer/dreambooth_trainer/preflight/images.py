"""Checks whether the images and captions can be trained on."""

from collections import Counter
from collections.abc import Sequence

from dreambooth_storage import Storage, printable
from dreambooth_trainer.data.buckets import MAX_RATIO, nearest_shape
from dreambooth_trainer.data.images import SourceImage, load_images
from dreambooth_trainer.data.prior.own_class_images import FIELD, load_own_class_images
from dreambooth_trainer.data.subjects import load_subject
from dreambooth_trainer.preflight.prompts import Prompts
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.resolved_job import ResolvedJob

SAMPLE_SIZE = 64
"""Class images and evaluation images to check at most: there may be thousands."""


def check_subjects(
    job: ResolvedJob, storage: Storage, report: PreflightReport, step: int | None = None
) -> Prompts:
    """Check every subject's images and captions; `step` is the model's, see `nearest_shape`.

    Returns:
        The captions, each with its field.
    """
    captions: Prompts = []
    for index, subject in enumerate(job.spec.subjects):
        with report.collecting():
            loaded = load_subject(storage, job, index)
            report.warnings += loaded.warnings
            report.notes += loaded.notes
            if step and job.spec.training.crop == "none":
                _report_shapes(loaded.images, job, index, step, report)
            field = f"spec.subjects[{index}].{'captions' if subject.captions_folder else 'images'}"
            captions += [(field, text) for text in dict.fromkeys(loaded.captions)]
    return captions


def _report_shapes(
    images: Sequence[SourceImage], job: ResolvedJob, index: int, step: int, report: PreflightReport
) -> None:
    """Tell in which shapes a subject's images are trained on, and warn of panoramas."""
    side, field = job.spec.training.resolution, f"spec.subjects[{index}].images"
    shapes = Counter(nearest_shape(image.size, side, step) for image in images)
    counts = ", ".join(
        f"{number} of {width} x {height}" for (width, height), number in sorted(shapes.items())
    )
    report.notes.append(f"{field}: trained on without cropping (crop: none): {counts} pixels")
    for image in images:
        if max(image.size) > MAX_RATIO * min(image.size):
            report.warnings.append(
                f"{field}: {printable(image.name)} is longer than {MAX_RATIO:g} to 1, and is"
                " cropped to that; cut out the part that shows the subject"
            )


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
