"""A subject's images with their captions, and what its user should know about them."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_storage import Storage
from dreambooth_trainer.data.captions.captions import Captions, load_captions
from dreambooth_trainer.data.captions.tags import split_tags
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.data.masks import add_masks, list_masks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.resolved_job import ResolvedJob

FEWEST_IMAGES = 3
"""Ruiz et al. 2022, section 3: 3 to 5 images of a subject."""


@dataclass(frozen=True)
class SubjectData:
    """What is trained on for one subject: images, and a caption for each."""

    images: Sequence[SourceImage]
    captions: Sequence[str]
    held_out: Sequence[SourceImage]
    """Its images that are not trained on (spec.evaluation.holdOut)."""
    held_out_captions: Sequence[str]
    warnings: Sequence[str]
    notes: Sequence[str]
    undescribed: frozenset[str] = frozenset()
    """Names of the images whose captions a vision-language model is yet to write."""


def load_subject(storage: Storage, job: ResolvedJob, index: int) -> SubjectData:
    """Images and captions of `spec.subjects[index]`.

    Raises:
        BadDataError: No image can be used, most are lost, or captions or masks cannot be used; the
            message has a line for each of the two.
        StorageError: They cannot be read.
    """
    subject, field = job.spec.subjects[index], f"spec.subjects[{index}].images"
    masks = list_masks(storage, subject, index)
    loaded = load_images(
        storage,
        subject.images,
        field=field,
        resolution=job.spec.training.resolution,
        skip=masks.keys(),
    )
    _check_losses(loaded, field)
    captions, images, problems = Captions([]), list(loaded.images), []
    warnings: list[str] = []
    try:
        captions = load_captions(storage, subject, loaded.images, index)
    except BadDataError as error:
        problems.append(error)  # raised below, with what is wrong with the masks
    try:
        crop = job.spec.training.crop
        images, warnings = add_masks(storage, subject, loaded.images, index, masks, crop)
    except BadDataError as error:
        problems.append(error)
    if problems:
        raise BadDataError("\n".join(map(str, problems)))
    warnings += [loaded.report(field)] if loaded.rejected else []
    tags = max((len(split_tags(text)) for text in captions.texts), default=0)
    described = not captions.undescribed
    if job.spec.training.shuffle_tags and tags <= 2 and described:
        warnings.append(
            f"spec.training.shuffleTags: no caption of spec.subjects[{index}] has tags to shuffle,"
            " which are parts between commas; write some, or set it to false"
        )
    if job.spec.training.tag_dropout and tags < 2 and described:
        warnings.append(
            f"spec.training.tagDropout: no caption of spec.subjects[{index}] has tags to leave out,"
            " which are parts between commas; write some, or remove it"
        )
    kept = len(loaded.images) - _hold_out(job, len(loaded.images), field)
    if kept < FEWEST_IMAGES:
        warnings.append(
            f"{field}: {kept} image(s) are few to learn a subject from; add more,"
            " from other sides and in other places (3 to 5 are usual)"
        )
    return SubjectData(
        images=images[:kept],
        captions=captions.texts[:kept],
        held_out=images[kept:],
        held_out_captions=captions.texts[kept:],
        undescribed=captions.undescribed,
        warnings=[*warnings, *captions.warnings],
        notes=captions.notes,
    )


def _hold_out(job: ResolvedJob, images: int, field: str) -> int:
    """Number of images of a subject that are not trained on."""
    count = job.spec.evaluation.hold_out if job.spec.evaluation else 0
    if count >= images:
        raise BadDataError(
            f"spec.evaluation.holdOut: leaves out {count} of the {images} image(s) of {field}, and"
            " none is left to train on; add images, or set it to a lower number"
        )
    return count


def _check_losses(loaded: ImageSet, field: str) -> None:
    """Refuse to train on the minority of the images that happens to be readable."""
    lost = [each for each in loaded.rejected if each.is_lost]
    if len(lost) > len(loaded.images):
        lines = "".join(f"\n  {rejected}" for rejected in lost)
        raise BadDataError(
            f"{field}: {len(lost)} of {len(lost) + len(loaded.images)} images cannot be trained"
            f" on; correct them, or take them out of the folder{lines}"
        )
