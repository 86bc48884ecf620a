"""Generated class images in storage, shared by all jobs of the same model and prompt."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from dreambooth_api.models.prior import Sampler
from dreambooth_storage import AlreadyExistsError, Storage, join
from dreambooth_trainer.data.crops import Size
from dreambooth_trainer.data.decode import UnreadableImageError, decode
from dreambooth_trainer.data.images import SourceImage
from dreambooth_trainer.data.png import encode_png
from dreambooth_trainer.resolved_job import ResolvedJob

FIELD = "spec.prior.cache"


@dataclass(frozen=True)
class ClassImageRecipe:
    """Everything that images of one prompt depend on, except their index; `resolution` in pixels.

    Not the precision: images that differ by rounding to 16 bits serve equally well.
    """

    model: str
    """sha256 of the base model."""
    prompt: str
    sampler: Sampler
    steps: int
    guidance_scale: float
    seed: int
    """Image i is generated from seed + i."""
    resolution: int
    """Side of squares."""
    shape: Size | None = None
    """Of images that are no squares."""
    quantization: tuple[str, str | None] | None = None
    """Formats of the denoiser's and the text encoders' weights (`spec.model.quantization`)."""

    @classmethod
    def of(
        cls, job: ResolvedJob, prompt: str, model_hash: str, shape: Size | None = None
    ) -> "ClassImageRecipe":
        """The recipe for a prompt of the job; `shape` is None for squares of its resolution."""
        prior, quantization = job.spec.prior, job.spec.model.quantization
        return cls(
            model=model_hash,
            prompt=prompt,
            sampler=prior.sampler,
            steps=prior.steps,
            guidance_scale=float(prior.guidance_scale),
            seed=prior.seed,
            resolution=job.spec.training.resolution,
            shape=shape if shape != (job.spec.training.resolution,) * 2 else None,
            quantization=(quantization.denoiser, quantization.text_encoders)
            if quantization
            else None,
        )

    @property
    def size(self) -> Size:
        """Of the images."""
        return self.shape or (self.resolution, self.resolution)

    def manifest(self) -> dict[str, Any]:
        """The fields by name; squares have no shape, as in earlier versions."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def key(self) -> str:
        """Name of the cache's folder for this recipe: 32 hexadecimal digits."""
        text = json.dumps(self.manifest(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class ClassImageCache:
    """The first `count` images of a class: those of recipe r are in the folder `<root>/<key of r>`.

    Image i is of recipe i modulo their number, and is made from the same seed whatever the others
    are: jobs whose prompts differ in part share the images of the prompts that they have in common.

    All methods that access storage raise `StorageError`.

    Args:
        storage: Of the images.
        root: URI of the folder that jobs share.
        recipes: One for each prompt; they differ in the prompt alone.
        count: Number of images.
    """

    def __init__(
        self, storage: Storage, root: str, recipes: Sequence[ClassImageRecipe], count: int
    ) -> None:
        self._storage = storage
        self._folders = [join(root, recipe.key()) for recipe in recipes]
        self._recipes = recipes
        self.count = count

    def recipe(self, index: int) -> ClassImageRecipe:
        """What an image is made from, beside its index."""
        return self._recipes[index % len(self._recipes)]

    def write_manifests(self) -> None:
        """Write each recipe beside its images, for users who inspect the folders."""
        for recipe, folder in zip(self._recipes, self._folders, strict=True):
            manifest = json.dumps(recipe.manifest(), indent=2).encode() + b"\n"
            self._write(join(folder, "manifest.json"), manifest)

    def present(self) -> set[int]:
        """Indices that have a file."""
        uris = {
            item.uri
            for folder in dict.fromkeys(self._folders)
            for item in self._storage.list(folder, field=FIELD)
        }
        return {i for i in range(self.count) if self.uri(i) in uris}

    def verify(self, indices: Sequence[int]) -> tuple[dict[int, SourceImage], set[int]]:
        """Check which of the indices have an image.

        Returns:
            The intact images by index, and the indices with a damaged file.

        Raises:
            StorageError: The cache cannot be read.
        """
        present = self.present() if indices else set()
        candidates = [i for i in indices if i in present]
        contents = self._storage.read_many([self.uri(i) for i in candidates], field=FIELD)
        checked = {
            i: self._check(i, data) for i, (_, data) in zip(candidates, contents, strict=True)
        }
        intact = {i: image for i, image in checked.items() if image is not None}
        return intact, checked.keys() - intact

    def write(self, index: int, image: Image.Image, *, replace: bool) -> None:
        """Store an image; without `replace`, one that another job has stored meanwhile stays.

        Raises:
            StorageError: The cache cannot be written.
        """
        self._write(self.uri(index), encode_png(image), replace=replace)

    def _check(self, index: int, data: bytes) -> SourceImage | None:
        width, height = self.recipe(index).size
        try:
            pixels = decode(data, smallest=min(width, height), max_pixels=width * height)
        except UnreadableImageError:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        return SourceImage(_name(index), pixels.size, sha256, self.uri(index), FIELD)

    def _write(self, uri: str, data: bytes, *, replace: bool = False) -> None:
        # Jobs may generate the same image at once: the first one stays, and all jobs read that one.
        with suppress(AlreadyExistsError):
            self._storage.write(uri, data, only_if_absent=not replace, field=FIELD)

    def uri(self, index: int) -> str:
        """URI of an image."""
        return join(self._folders[index % len(self._folders)], _name(index))


def _name(index: int) -> str:
    return f"{index:05d}.png"
