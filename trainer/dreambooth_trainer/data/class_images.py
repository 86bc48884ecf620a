"""Class images for prior preservation (Ruiz et al. 2022, section 3.3), shared by jobs.

The user's own images come first, then the cache's; what is missing is generated. Image i of a cache
is made from seed + i by whichever rank its chunk falls to, so the set does not depend on how many
ranks there are.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dreambooth_api.models.job import DreamBoothJob, prior_cache
from dreambooth_api.models.prior import Prior, Sampler
from dreambooth_storage import AlreadyExistsError, Storage, join
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.data.decode import UnreadableImageError, decode
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.models import Family
from dreambooth_trainer.models.adapters import PRECISIONS
from dreambooth_trainer.models.generate import ImageRequest, generate_images
from dreambooth_trainer.process.chunks import own_chunks
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.process.signals import StoppedError

FIELD, IMAGES = "spec.prior.cache", "spec.prior.images"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassImageRecipe:
    """All that class images depend on beside their index."""

    model: str
    prompt: str
    sampler: Sampler
    steps: int
    guidance_scale: float
    seed: int
    resolution: int

    def key(self) -> str:
        """Name of the cache's folder for this recipe: 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def request(self, index: int) -> ImageRequest:
        """What image `index` is made from."""
        return ImageRequest(self.prompt, self.seed + index)


@dataclass(frozen=True)
class ClassImageSet:
    """The class images, the same on every rank, and where they came from.

    supplied: of `spec.prior.images`, with what was refused there.
    reused, generated: images of the cache that were there, and that were made, over all ranks.
    """

    images: list[SourceImage]
    supplied: ImageSet
    reused: int
    generated: int


def recipe(job: DreamBoothJob, class_noun: str, model_hash: str) -> ClassImageRecipe:
    """How the class's images are made."""
    prior = job.spec.prior
    return ClassImageRecipe(
        model=model_hash,
        prompt=class_prompt(prior, class_noun),
        sampler=prior.sampler,
        steps=prior.steps,
        guidance_scale=float(prior.guidance_scale),
        seed=prior.seed,
        resolution=job.spec.training.resolution,
    )


def class_prompt(prior: Prior, class_noun: str) -> str:
    """Prompt, and caption, of the class images."""
    return prior.prompt.replace("{class}", class_noun)


def prepare_class_images(attempt: Attempt, family: Family, class_noun: str) -> list[SourceImage]:
    """`class_images` for a job under way, generated in its precision. Collective."""
    precision = PRECISIONS[attempt.job.spec.training.precision]
    mixed = precision is not torch.float32
    with torch.autocast(attempt.device.type, precision, enabled=mixed):
        found = load_class_images(
            attempt.job,
            class_noun,
            storage=attempt.storage,
            ranks=attempt.ranks,
            model_hash=family.model_hash,
            pipeline=family.pipeline,
            progress=attempt.telemetry.progress.record_class_images,
            should_stop=lambda: attempt.stop.requested,
        )
    if attempt.topology.rank == 0:
        if found.supplied.rejected:
            log.warning(found.supplied.report(IMAGES))
        log.info(
            "class images of %r: %d supplied, %d reused, %d generated",
            class_noun, len(found.supplied.images), found.reused, found.generated,
        )  # fmt: skip
    return found.images


def load_class_images(
    job: DreamBoothJob,
    class_noun: str,
    *,
    storage: Storage,
    ranks: Ranks,
    model_hash: str,
    pipeline: Callable[[], Any],
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ClassImageSet:
    """The `spec.prior.count` images of a class. Collective.

    pipeline: called only where something is to be generated; it runs in the surrounding autocast.
    progress: (there, wanted) of the generated images over all ranks, on rank 0.
    Raises `BadDataError` when `spec.prior.images` has none, `StorageError` when the cache fails,
    and `StoppedError` on every rank when one was asked to stop; what was made by then is kept.
    """
    supplied = _supplied(job, storage)
    wanted = job.spec.prior.count - len(supplied.images)
    cache = _Cache(storage, prior_cache(job), recipe(job, class_noun, model_hash), wanted)
    if ranks.topology.rank != 0:
        progress = _unheard
    elif wanted:
        cache.describe()
    own = own_chunks(range(wanted), ranks.topology).values()
    intact, damaged = cache.examine([i for chunk in own for i in chunk])
    work = [missing for chunk in own if (missing := [i for i in chunk if i not in intact])]
    made, stopped = _fill(cache, work, damaged, pipeline, progress, should_stop)
    shares = ranks.gather((len(intact), made, stopped))  # and wait until everything is written
    if any(asked for _, _, asked in shares):
        raise StoppedError(
            "asked to stop while class images were made; those that are done are kept"
        )
    return ClassImageSet(
        images=[*supplied.images, *cache.read()],
        supplied=supplied,
        reused=sum(count for count, _, _ in shares),
        generated=sum(count for _, count, _ in shares),
    )


def _unheard(done: int, total: int) -> None:
    """Only rank 0 reports progress."""


def _fill(
    cache: "_Cache",
    work: Sequence[Sequence[int]],
    damaged: set[int],
    pipeline: Callable[[], Any],
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> tuple[int, bool]:
    """Generate what is missing, chunk by chunk; returns (images made, asked to stop)."""
    made = 0
    for missing in work:
        if should_stop():
            return made, True
        made += cache.fill(pipeline(), missing, damaged)
        progress(len(cache.present()), cache.wanted)
    return made, should_stop()


def _supplied(job: DreamBoothJob, storage: Storage) -> ImageSet:
    prior, resolution = job.spec.prior, job.spec.training.resolution
    if prior.images is None:
        return ImageSet([], [])
    return load_images(
        storage, prior.images, field=IMAGES, resolution=resolution, count=prior.count
    )


class _Cache:
    """The folder of one recipe's images."""

    def __init__(self, storage: Storage, root: str, recipe: ClassImageRecipe, wanted: int) -> None:
        self._storage = storage
        self._recipe = recipe
        self._folder = join(root, recipe.key())
        self.wanted = wanted

    def describe(self) -> None:
        """Write for people what the folder's images are made from."""
        manifest = json.dumps(asdict(self._recipe), indent=2).encode() + b"\n"
        self._write(join(self._folder, "manifest.json"), manifest)

    def present(self) -> set[int]:
        """Indices that have a file."""
        names = {item.relative for item in self._storage.list(self._folder, field=FIELD)}
        return {i for i in range(self.wanted) if _name(i) in names}

    def examine(self, indices: Sequence[int]) -> tuple[set[int], set[int]]:
        """Which of the indices have an image, and which have a file that is none."""
        present = self.present() if indices else set()
        here = [i for i in indices if i in present]
        intact = {i for i, image in self._decoded(here) if image is not None}
        return intact, set(here) - intact

    def fill(self, pipeline: Any, missing: Sequence[int], damaged: set[int]) -> int:
        """Generate the missing images of one chunk; returns how many."""
        recipe = self._recipe
        images = generate_images(
            pipeline,
            [recipe.request(i) for i in missing],
            sampler=recipe.sampler,
            steps=recipe.steps,
            guidance_scale=recipe.guidance_scale,
            size=recipe.resolution,
        )
        for i, image in zip(missing, images, strict=True):
            self._write(self._uri(i), encode_png(image), replace=i in damaged)
        return len(images)

    def read(self) -> Iterator[SourceImage]:
        """All images in order; the same on every rank, whoever made them."""
        for i, image in self._decoded(range(self.wanted)):
            if image is None:
                raise BadDataError(f"{FIELD}: {self._uri(i)} is damaged; delete it and start again")
            yield image

    def _decoded(self, indices: Sequence[int]) -> Iterator[tuple[int, SourceImage | None]]:
        contents = self._storage.read_many([self._uri(i) for i in indices], field=FIELD)
        for i, (_, data) in zip(indices, contents, strict=True):
            yield i, self._decode(i, data)

    def _decode(self, index: int, data: bytes) -> SourceImage | None:
        side = self._recipe.resolution
        try:
            pixels = decode(data, smallest=side, max_pixels=side * side)
        except UnreadableImageError:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        return SourceImage(_name(index), pixels, sha256, self._uri(index))

    def _write(self, uri: str, data: bytes, *, replace: bool = False) -> None:
        # Another job may make the same image: the first one wins, and all read the winner's.
        with suppress(AlreadyExistsError):
            self._storage.write(uri, data, only_if_absent=not replace, field=FIELD)

    def _uri(self, index: int) -> str:
        return join(self._folder, _name(index))


def _name(index: int) -> str:
    return f"{index:05d}.png"
