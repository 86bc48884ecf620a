"""The real images of a subject that generated ones are compared with, and their vectors."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.images import load_images, read_pixels
from dreambooth_trainer.data.masks import list_masks
from dreambooth_trainer.evaluation.encoders import ImageEncoder, TextEncoder
from dreambooth_trainer.evaluation.scores import RealVectors, with_class_nouns


@dataclass(frozen=True)
class References:
    """Real images of one subject, upright and reduced to the job's resolution."""

    training: Sequence[Image.Image]
    held_out: Sequence[Image.Image] | None
    """Images that were not trained on; None: the training images are compared with."""


def load_references(attempt: Attempt, index: int) -> References:
    """The real images of `spec.subjects[index]`, its own alone.

    Raises:
        BadDataError: None of them can be used.
        StorageError: They cannot be read.
    """
    subject = attempt.job.spec.subjects[index]
    field = f"spec.subjects[{index}]"
    held_out = None
    if subject.evaluation_images is not None:
        held_out = _load(attempt, subject.evaluation_images, f"{field}.evaluationImages")
    masks = list_masks(attempt.storage, subject, index)
    training = _load(attempt, subject.images, f"{field}.images", skip=masks)
    if attempt.job.spec.evaluation:
        training = training[: len(training) - attempt.job.spec.evaluation.hold_out]
    return References(training, held_out)


def encode_real(
    attempt: Attempt,
    index: int,
    prompts: Sequence[str],
    image_encoder: ImageEncoder,
    text_encoder: TextEncoder,
) -> RealVectors:
    """Vectors of the real images of `spec.subjects[index]`, and of its prompts.

    Raises:
        BadDataError: None of the images can be used.
        StorageError: They cannot be read.
    """
    images = load_references(attempt, index)
    references = images.training if images.held_out is None else images.held_out
    subjects = attempt.job.spec.subjects
    texts = [with_class_nouns(prompt, subjects) for prompt in prompts]
    return RealVectors(
        references=image_encoder.images(references),
        references_clip=text_encoder.images(references),
        training=image_encoder.images(images.training),
        held_out=images.held_out is not None,
        texts=text_encoder.texts(texts),
        class_text=text_encoder.texts([subjects[index].class_prompt])[0],
    )


def _load(attempt: Attempt, uri: str, field: str, skip: Collection[str] = ()) -> list[Image.Image]:
    storage, resolution = attempt.storage, attempt.job.spec.training.resolution
    loaded = load_images(storage, uri, field=field, resolution=resolution, skip=skip)
    return list(read_pixels(storage, loaded.images))
