"""Class images for prior preservation (Ruiz et al. 2022, section 3.3), shared by jobs.

The user's own images come first, then those of the cache; missing ones are generated. Image i of a
cache is generated from seed + i, whichever rank has its chunk, so the set does not depend on the
number of ranks.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dreambooth_api.models.job import prior_cache
from dreambooth_storage import Storage
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.class_image_cache import ClassImageCache, ClassImageRecipe
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters import PRECISIONS
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.process.chunks import images_per_pass, own_chunks
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.resolved_job import ResolvedJob

FIELD = "spec.prior.images"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassImageSet:
    """The class images, the same on every rank, and their origin.

    Args:
        images: All of them.
        supplied: Those of `spec.prior.images`, and the files that were rejected there.
        reused: Number of images that the cache had already, over all ranks.
        generated: Number of images that were generated, over all ranks.
    """

    images: list[SourceImage]
    supplied: ImageSet
    reused: int
    generated: int


def prepare_class_images(attempt: Attempt, family: Family, class_noun: str) -> list[SourceImage]:
    """The class images of a running attempt, generated in its precision. Collective.

    Raises:
        BadDataError: `spec.prior.images` has no image that can be used.
        StorageError: The cache cannot be read or written.
        StoppedError: On every rank, when one was asked to stop; the images so far are kept.
    """
    precision = PRECISIONS[attempt.job.spec.training.precision]
    mixed = precision is not torch.float32
    with torch.autocast(attempt.device.type, precision, enabled=mixed):
        loaded = load_class_images(
            attempt.job,
            class_noun,
            storage=attempt.storage,
            ranks=attempt.ranks,
            model_hash=family.model_hash,
            family=family,
            progress=attempt.telemetry.progress.record_class_images,
            should_stop=lambda: attempt.stop.requested,
        )
    if attempt.topology.rank == 0:
        if loaded.supplied.rejected:
            log.warning(loaded.supplied.report(FIELD))
        log.info(
            "class images of %r: %d supplied, %d reused, %d generated",
            class_noun, len(loaded.supplied.images), loaded.reused, loaded.generated,
        )  # fmt: skip
    return loaded.images


def load_class_images(
    job: ResolvedJob,
    class_noun: str,
    *,
    storage: Storage,
    ranks: Ranks,
    model_hash: str,
    family: Family,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> ClassImageSet:
    """The `spec.prior.count` images of a class. Collective; raises as `prepare_class_images` does.

    Args:
        job: The job that trains on them.
        class_noun: The class.
        storage: Storage of the user's images and of the cache.
        ranks: All ranks, which share the work.
        model_hash: sha256 of the base model.
        family: The base model; it runs in the surrounding autocast.
        progress: Called on rank 0 with the number of images that the cache has, over all ranks, and
            with the number that it needs.
        should_stop: Whether this rank was asked to stop.
    """
    supplied = ranks.run_on_first(lambda: _load_supplied(job, storage))
    recipe = ClassImageRecipe.of(job, class_noun, model_hash)
    wanted = job.spec.prior.count - len(supplied.images)
    cache = ClassImageCache(storage, prior_cache(job), recipe, wanted)

    def make_own() -> _Share:
        if wanted and ranks.topology.rank == 0:
            cache.write_manifest()
        own = own_chunks(range(wanted), ranks.topology, images_per_pass(recipe.resolution)).values()
        intact, damaged = cache.verify([i for chunk in own for i in chunk])
        missing = [absent for chunk in own if (absent := [i for i in chunk if i not in intact])]
        made: list[int] = []
        for indices in missing:
            try:
                _generate(family, cache, indices, damaged, should_stop)
            except StoppedError:
                break  # not raised here: what is made has to be counted, as the other ranks wait
            made += indices
            if ranks.topology.rank == 0:
                # A listing counts the images of all ranks, and of other jobs, without a collective.
                progress(len(cache.present()), wanted)
        return _Share(intact, _verify_made(cache, made), should_stop())

    shares = ranks.run_on_all(make_own)
    if any(share.stopped for share in shares):
        raise StoppedError("asked to stop while generating class images; finished ones are kept")
    images = {
        i: image for share in shares for i, image in [*share.reused.items(), *share.made.items()]
    }
    return ClassImageSet(
        images=[*supplied.images, *(images[i] for i in range(wanted))],
        supplied=supplied,
        reused=sum(len(share.reused) for share in shares),
        generated=sum(len(share.made) for share in shares),
    )


@dataclass(frozen=True)
class _Share:
    """One rank's part of the images, by index."""

    reused: dict[int, SourceImage]
    made: dict[int, SourceImage]
    stopped: bool


def _verify_made(cache: ClassImageCache, indices: Sequence[int]) -> dict[int, SourceImage]:
    """The images as they are stored: another job may have been first to store one."""
    images, damaged = cache.verify(indices)
    if damaged:
        uri = cache.uri(min(damaged))
        raise BadDataError(f"spec.prior.cache: {uri} is damaged; delete it and start again")
    return images


def _generate(
    family: Family,
    cache: ClassImageCache,
    indices: Sequence[int],
    damaged: set[int],
    should_stop: Callable[[], bool],
) -> None:
    """Generate the images of one chunk that are missing; damaged ones are replaced.

    Raises:
        StoppedError: This rank was asked to stop; no image of the chunk is kept.
    """
    recipe = cache.recipe
    images = generate_images(
        family,
        [ImageRequest(recipe.prompt, recipe.seed + i) for i in indices],
        sampler=recipe.sampler,
        steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        size=recipe.resolution,
        should_stop=should_stop,
    )
    for i, image in zip(indices, images, strict=True):
        cache.write(i, image, replace=i in damaged)


def _load_supplied(job: ResolvedJob, storage: Storage) -> ImageSet:
    prior, resolution = job.spec.prior, job.spec.training.resolution
    if prior.images is None:
        return ImageSet([], [])
    return load_images(storage, prior.images, field=FIELD, resolution=resolution, count=prior.count)
