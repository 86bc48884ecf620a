"""The real images of a subject that generated ones are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.images import load_images, read_pixels


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
    return References(_load(attempt, subject.images, f"{field}.images"), held_out)


def _load(attempt: Attempt, uri: str, field: str) -> list[Image.Image]:
    storage, resolution = attempt.storage, attempt.job.spec.training.resolution
    loaded = load_images(storage, uri, field=field, resolution=resolution)
    return list(read_pixels(storage, loaded.images, resolution))
