"""Class images for prior preservation (Ruiz et al. 2022, section 3.3), shared by jobs.

The user's own images come first, then those of the cache; missing ones are generated. Image i of a
cache is generated from prompt i modulo their number and from seed + i, whichever rank has its
chunk, so the set does not depend on the number of ranks.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image

from dreambooth_api.models.job import prior_cache
from dreambooth_storage import Storage
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.crops import Size
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.data.prior.class_image_cache import ClassImageCache, ClassImageRecipe
from dreambooth_trainer.data.prior.own_class_images import FIELD, OwnClassImages
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters.trainable import PRECISIONS
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.models.sharding import is_sharded
from dreambooth_trainer.process.chunks import images_per_pass, own_chunks
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.resolved_job import ResolvedJob

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassImageSet:
    """The class images, the same on every rank, and their origin.

    Args:
        images: All of them, the user's own first.
        captions: Of each image; of a generated one, the prompt that it was made from.
        reused: Number of images that the cache had already, over all ranks.
        generated: Number of images that were generated, over all ranks.
    """

    images: list[SourceImage]
    captions: list[str]
    reused: int
    generated: int


def prepare_class_images(
    attempt: Attempt,
    family: Family,
    class_noun: str,
    own: OwnClassImages,
    count: int,
    shape: Size | None = None,
) -> ClassImageSet:
    """The class images of a running attempt, generated in its precision. Collective.

    Args:
        attempt: The attempt.
        family: The base model.
        class_noun: The class.
        own: The user's images of it.
        count: Number of images, with the user's.
        shape: Of the others; None: squares of the job's resolution.

    Raises:
        StorageError: The cache cannot be read or written.
        StoppedError: On every rank, when one was asked to stop; the images so far are kept.
    """
    precision = PRECISIONS[attempt.job.spec.training.precision]
    mixed = precision is not torch.float32
    with torch.autocast(attempt.device.type, precision, enabled=mixed):
        loaded = load_class_images(
            attempt.job,
            class_noun,
            own,
            count,
            shape,
            storage=attempt.storage,
            ranks=attempt.ranks,
            model_hash=family.model_hash,
            family=family,
            progress=attempt.telemetry.progress.record_class_images,
            should_stop=lambda: attempt.stop.requested,
        )
    if attempt.topology.rank == 0:
        if own.loaded.rejected:
            log.warning(own.loaded.report(FIELD))
        log.info(
            "class images of %r: %d supplied, %d reused, %d generated",
            class_noun, len(own.images), loaded.reused, loaded.generated,
        )  # fmt: skip
    return loaded


def load_class_images(
    job: ResolvedJob,
    class_noun: str,
    own: OwnClassImages,
    count: int,
    shape: Size | None = None,
    *,
    storage: Storage,
    ranks: Ranks,
    model_hash: str,
    family: Family,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> ClassImageSet:
    """`count` images of a class. Collective; raises as `prepare_class_images` does.

    Args:
        job: The job that trains on them.
        class_noun: The class.
        own: The user's images of it.
        count: Number of images, with the user's.
        shape: Of the others; None: squares of the job's resolution.
        storage: Storage of the cache.
        ranks: All ranks, which share the work.
        model_hash: sha256 of the base model.
        family: The base model; it runs in the surrounding autocast.
        progress: Called on rank 0 with the number of images that the cache has, over all ranks, and
            with the number that it needs.
        should_stop: Whether this rank was asked to stop.
    """
    prompts = job.spec.prior.generation_prompts(class_noun)
    recipes = [ClassImageRecipe.of(job, prompt, model_hash, shape) for prompt in prompts]
    wanted = count - len(own.images)
    cache = ClassImageCache(storage, prior_cache(job), recipes, wanted)
    chunk = images_per_pass(job.spec.training.resolution)

    found = ranks.run_on_all(lambda: _find(cache, ranks, wanted, chunk))
    made = _make_missing(family, cache, ranks, found, progress, should_stop)
    shares = ranks.run_on_all(lambda: _Share(_verify_made(cache, made), should_stop()))
    if any(share.stopped for share in shares):
        raise StoppedError("asked to stop while generating class images; finished ones are kept")
    images = {i: image for each in found for i, image in each.intact.items()}
    images |= {i: image for share in shares for i, image in share.made.items()}
    return ClassImageSet(
        images=[*own.images, *(images[i] for i in range(wanted))],
        captions=[*own.captions, *(cache.recipe(i).prompt for i in range(wanted))],
        reused=sum(len(each.intact) for each in found),
        generated=sum(len(share.made) for share in shares),
    )


@dataclass(frozen=True)
class _Found:
    """One rank's part of the cache."""

    intact: dict[int, SourceImage]
    damaged: set[int]
    missing: list[list[int]]
    """Images to make, damaged ones among them, by chunks."""


@dataclass(frozen=True)
class _Share:
    """What one rank has made."""

    made: dict[int, SourceImage]
    stopped: bool


def _find(cache: ClassImageCache, ranks: Ranks, wanted: int, size: int) -> _Found:
    """This rank's part of `wanted` images, in chunks of a size."""
    if wanted and ranks.topology.rank == 0:
        cache.write_manifests()
    chunks = own_chunks(range(wanted), ranks.topology, size).values()
    intact, damaged = cache.verify([i for indices in chunks for i in indices])
    missing = [lost for indices in chunks if (lost := [i for i in indices if i not in intact])]
    return _Found(intact, damaged, missing)


def _make_missing(
    family: Family,
    cache: ClassImageCache,
    ranks: Ranks,
    found: Sequence[_Found],
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[int]:
    """Make this rank's missing images, until one is asked to stop; those made. Collective."""
    mine = found[ranks.topology.rank]
    made: list[int] = []

    def make(number: int) -> bool:
        """Make a chunk; returns whether this rank was asked to stop meanwhile."""
        try:
            if number < len(mine.missing):
                images = _generate(family, cache, mine.missing[number], should_stop)
                for i, image in images.items():
                    cache.write(i, image, replace=i in mine.damaged)
                made.extend(images)
            elif is_sharded(family.denoiser):
                _generate(family, cache, [0], should_stop)  # the others need this rank's part
        except StoppedError:
            return True  # not raised here, as the other ranks wait
        if ranks.topology.rank == 0:
            # A listing counts the images of all ranks, and of other jobs.
            progress(len(cache.present()), cache.count)
        return should_stop()

    for number in range(max(len(each.missing) for each in found)):
        if any(ranks.run_on_all(partial(make, number))):
            break
    return made


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
    should_stop: Callable[[], bool],
) -> dict[int, Image.Image]:
    """Images of one chunk, by index.

    Raises:
        StoppedError: This rank was asked to stop. One that has divided the model with others goes
            on: they make the same passes.
    """
    recipe = cache.recipe(indices[0])
    images = generate_images(
        family,
        [ImageRequest(cache.recipe(i).prompt, recipe.seed + i) for i in indices],
        sampler=recipe.sampler,
        steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        size=recipe.size,
        should_stop=lambda: should_stop() and not is_sharded(family.denoiser),
    )
    return dict(zip(indices, images, strict=True))
