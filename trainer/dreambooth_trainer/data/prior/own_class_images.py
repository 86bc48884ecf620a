"""The user's own class images (spec.prior.images), with the captions beside them."""

from dataclasses import dataclass, field

from dreambooth_api.schema.names import has_identifier
from dreambooth_storage import Storage, printable
from dreambooth_trainer.data.captions.files import read_caption_files
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.resolved_job import ResolvedJob

FIELD = "spec.prior.images"


@dataclass(frozen=True)
class OwnClassImages:
    """Class images of the user's, with a caption for each, and the files that were rejected."""

    loaded: ImageSet = field(default_factory=lambda: ImageSet([], []))
    captions: list[str] = field(default_factory=list)

    @property
    def images(self) -> list[SourceImage]:
        """Those that are trained on, in the order of their names."""
        return self.loaded.images


def load_own_class_images(
    storage: Storage, job: ResolvedJob, count: int | None = None
) -> OwnClassImages:
    """The first `count` class images of the user's, by default all that are trained on.

    An image without a caption beside it has `spec.prior.prompt`. Captions are read in the layouts
    of `caption_files`.

    Raises:
        BadDataError: No image can be used, or captions cannot; all of these are listed.
        StorageError: They cannot be read.
    """
    prior = job.spec.prior
    if not prior.enabled or prior.images is None:
        return OwnClassImages()
    loaded = load_images(
        storage,
        prior.images,
        field=FIELD,
        resolution=job.spec.training.resolution,
        count=prior.count if count is None else min(count, prior.count),
    )
    names = [image.name for image in loaded.images]
    listed = list(storage.list(prior.images, field=FIELD))
    found = read_caption_files(storage, listed, names, field=FIELD)
    problems = found.problems + [
        f"the caption of {printable(name)} contains the identifier {subject.identifier!r}:"
        " class images show the class in general, so remove it"
        for name, text in found.texts.items()
        for subject in job.spec.subjects
        if has_identifier(text, subject.identifier)
    ]
    if problems:
        head = f"{FIELD}: {len(problems)} caption(s) in {prior.images} must be corrected:"
        raise BadDataError("\n  ".join([head, *problems]))
    # They are images of one class: see the rule of the job.
    default = prior.class_prompt(job.spec.subjects[0].class_noun)
    return OwnClassImages(loaded, [found.texts.get(name, default) for name in names])
