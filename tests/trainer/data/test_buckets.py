"""Images that are not cropped: their shapes, and the draws of several shapes."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.batches import BatchPlan, BatchStream
from dreambooth_trainer.data.bucket_sampler import BucketSampler
from dreambooth_trainer.data.buckets import divide, nearest_shape
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.dataset import Dataset, subject_groups
from dreambooth_trainer.data.images import ImageSet, SourceImage, load_images
from dreambooth_trainer.data.latents import LatentStore
from dreambooth_trainer.data.prior.class_shapes import divide_among_shapes
from dreambooth_trainer.data.prior.own_class_images import OwnClassImages
from dreambooth_trainer.data.sampler import ImagePool, TrainingSampler
from dreambooth_trainer.data.subjects import SubjectData
from dreambooth_trainer.objectives.ddpm import DDPMObjective
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.resolved import job_with, resolve

CORNERS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
DDPM = DDPMObjective(torch.linspace(0.99, 0.01, 1000), "epsilon", None)
MODELS = [(512, 64), (768, 64), (1024, 32), (1024, 16), (1328, 16), (64, 8)]
"""Resolution, and multiple of the sides: SD 1.5 and 2, SDXL and Sana, FLUX, Qwen, the tests'."""


@pytest.mark.parametrize(("resolution", "step"), MODELS)
@pytest.mark.parametrize("size", [(4032, 3024), (3024, 4032), (1920, 1080), (1080, 1920), (5, 6)])
def test_less_than_a_step_of_a_photo_is_cropped(
    resolution: int, step: int, size: tuple[int, int]
) -> None:
    width, height = nearest_shape(size, resolution, step)
    assert width % step == height % step == 0
    assert 0.75 <= width * height / resolution**2 <= 1
    scale = max(width / size[0], height / size[1])
    cropped = size[0] * scale - width, size[1] * scale - height
    assert min(cropped) == pytest.approx(0, abs=1e-6)
    assert max(cropped) < step
    assert nearest_shape((size[1], size[0]), resolution, step) == (height, width)


@pytest.mark.parametrize(("resolution", "step"), MODELS)
def test_no_proportions_lose_more_than_the_rounding(resolution: int, step: int) -> None:
    for ratio in np.linspace(0.25, 4, 200):
        width, height = nearest_shape((round(ratio * 10_000), 10_000), resolution, step)
        relative = width / height / ratio
        assert 1 - min(relative, 1 / relative) < step / min(width, height)
    assert nearest_shape((77, 77), resolution, step) == (resolution, resolution)


def test_a_panorama_is_cropped_to_four_to_one() -> None:
    assert nearest_shape((10_000, 500), 1024, 16) == nearest_shape((4000, 1000), 1024, 16)


class PixelFamily:
    """A family whose latents are the pixels."""

    model_hash = "ab"

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def tokenize(self, captions: list[str]) -> dict[str, Tensor]:
        return {"tokens": torch.zeros(len(captions), 1)}


def photo(folder: Path, name: str, size: tuple[int, int], orientation: int = 1) -> None:
    """A photo with another colour in each corner: a crop to a square loses two of them."""
    folder.mkdir(exist_ok=True)
    level = 90 + 9 * len(list(folder.iterdir()))  # no two are the same picture
    image = Image.new("RGB", size, (level, level, level))
    draw = ImageDraw.Draw(image)
    side = min(size) // 8
    for corner, colour in enumerate(CORNERS):
        left = (size[0] - side) * (corner % 2)
        top = (size[1] - side) * (corner // 2)
        draw.rectangle((left, top, left + side, top + side), fill=colour)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / name, quality=95, exif=exif)


def a_job(output: Path, *weights: float, **changes: Any) -> Any:
    subjects = [
        {
            "identifier": f"sks{i}",
            "classNoun": "mug",
            "images": f"file://{output}/{i}",
            "weight": weight,
        }
        for i, weight in enumerate(weights or (1.0,))
    ]
    training = {"resolution": 64, "flip": False, "crop": "none", **changes}
    return resolve(job_with(subjects=subjects, output=f"file://{output}", training=training))


def groups_of(job: Any) -> Any:
    storage = Storage(StorageSettings())
    subjects, side = [], job.spec.training.resolution
    for index, subject in enumerate(job.spec.subjects):
        field = f"spec.subjects[{index}].images"
        images = load_images(storage, subject.images, field=field, resolution=side).images
        subjects.append(SubjectData(images, [image.name for image in images], [], [], [], []))
    return subject_groups(job, subjects, step=8)


def cache_of(groups: Any, folder: Path) -> Any:
    family: Any = PixelFamily()
    return build_cache(
        family,
        groups,
        64,
        text_is_trained=True,
        store=LatentStore(Storage(StorageSettings()), f"file://{folder}/latents"),
        ranks=Ranks(Topology()),
        device=torch.device("cpu"),
    )


def corners(pixels: Tensor) -> list[tuple[bool, ...]]:
    """Which channels are bright in each corner of [1, 3, H, W]."""
    places = [pixels[0, :, y, x] for y in (1, -2) for x in (1, -2)]
    return [tuple((place > 0.5).tolist()) for place in places]


@pytest.mark.parametrize(
    ("size", "orientation", "shape"),
    [
        ((400, 300), 1, (72, 56)),
        ((300, 400), 1, (56, 72)),
        ((480, 270), 1, (80, 48)),
        ((400, 300), 6, (56, 72)),
    ],
)
@pytest.mark.parametrize("crop", ["none", "center"])
def test_all_of_a_photo_is_trained_on(
    tmp_path: Path, size: tuple[int, int], orientation: int, shape: tuple[int, int], crop: str
) -> None:
    photo(tmp_path / "0", "0.jpg", size, orientation)
    groups = groups_of(a_job(tmp_path, crop=crop))
    cache = cache_of(groups, tmp_path)
    width, height = shape if crop == "none" else (64, 64)
    pixels = cache.moments_of(torch.tensor([0]), height, width)
    bright = [tuple(channel > 128 for channel in colour) for colour in CORNERS]
    assert (sorted(corners(pixels)) == sorted(bright)) == (crop == "none")
    if crop == "none":
        assert groups[0].shapes == [shape]
        # What SDXL is told: no more than the rounding was cropped of an image of this size.
        original_height, original_width, top, left = cache.crops[0].tolist()
        assert max(original_width - width, original_height - height) < 8
        assert max(top, left) < 4


def test_each_shape_is_read_back_in_its_own(tmp_path: Path) -> None:
    for number, size in enumerate([(400, 300), (300, 300), (300, 400), (400, 300)]):
        photo(tmp_path / "0", f"{number}.png", size)
    groups = groups_of(a_job(tmp_path))
    for _ in range(2):  # encoded, then from storage
        cache = cache_of(groups, tmp_path)
        for row, (width, height) in enumerate(groups[0].shapes):
            bright = [tuple(channel > 128 for channel in colour) for colour in CORNERS]
            assert corners(cache.moments_of(torch.tensor([row]), height, width)) == bright
    names = [cache.captions[i] for i in cache.caption_of_row]
    assert names == [image.name for image in groups[0].images]


def bucketed(
    images: Mapping[tuple[int, int], int], global_batch: int = 1, weight: float = 1.0
) -> BucketSampler:
    """One subject with a number of images in each shape of latents."""
    buckets, first = [], 0
    for (height, width), count in images.items():
        buckets.append(
            TrainingSampler(
                seed=7, subjects=[ImagePool(first, count)], priors=[], weights=[weight * count],
                objective=DDPM, latent_shape=(4, height, width), global_batch=global_batch,
            )
        )  # fmt: skip
        first += count
    return BucketSampler(buckets, 1)


def test_every_image_has_its_turn_once_before_any_has_it_again() -> None:
    sampler = bucketed({(6, 8): 3, (8, 8): 1, (8, 6): 2})
    rows = [sampler.draw(step, 0)[0].row for step in range(60)]
    epochs = [rows[i : i + 6] for i in range(0, 60, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_step_has_one_shape_on_all_ranks(ranks: int, accumulation: int) -> None:
    sampler = bucketed({(6, 8): 3, (8, 8): 1, (8, 6): 2}, global_batch=4)
    local = 4 // ranks // accumulation
    streams = [
        list(BatchStream(sampler, BatchPlan(3, 15, accumulation, local, rank, ranks)))
        for rank in range(ranks)
    ]
    alone = list(BatchStream(sampler, BatchPlan(3, 15, 1, 4, 0, 1)))
    for step, whole in enumerate(alone):
        micros = range(step * accumulation, (step + 1) * accumulation)
        parts = [stream[micro] for micro in micros for stream in streams]
        for name, expected in whole.items():
            assert torch.cat([part[name] for part in parts]).equal(expected)
    assert {batch["noise"].shape[2:] for batch in alone} == {(6, 8), (8, 8), (8, 6)}


def test_subjects_are_drawn_by_weight_and_their_images_alike(tmp_path: Path) -> None:
    for number, size in enumerate([(400, 300), (300, 300), (400, 300)]):
        photo(tmp_path / "0", f"{number}.png", size)
    photo(tmp_path / "1", "0.png", (300, 400))
    photo(tmp_path / "1", "1.png", (310, 310))
    job = a_job(tmp_path, 3.0, 1.0)
    groups = groups_of(job)
    sampler = Dataset(job, groups, {}).sampler(2, lambda w, h: (1, h, w), DDPM)
    assert isinstance(sampler, BucketSampler)
    drawn = Counter(sampler.draw(step, p)[0].row for step in range(4000) for p in range(2))
    # A quarter each of the first subject's three images, an eighth of the second's two.
    for row, share in enumerate([0.25, 0.25, 0.25, 0.125, 0.125]):
        assert drawn[row] / 8000 == pytest.approx(share, abs=0.025)


def test_images_of_one_shape_are_drawn_as_squares_are(tmp_path: Path) -> None:
    for number in range(3):
        photo(tmp_path / "0", f"{number}.png", (300 + number, 300))
    draws = []
    for crop in ("none", "center"):
        job = a_job(tmp_path, crop=crop)
        sampler = Dataset(job, groups_of(job), {}).sampler(2, lambda w, h: (1, h, w), DDPM)
        assert isinstance(sampler, TrainingSampler)
        draws.append([sampler.draw(step, p)[0] for step in range(9) for p in range(2)])
    for one, other in zip(*draws, strict=True):
        assert one.row == other.row
        assert np.array_equal(one.noise, other.noise)


@pytest.mark.parametrize("crop", ["none", "center"])
def test_every_image_has_its_turn_at_every_resolution(tmp_path: Path, crop: str) -> None:
    for number in range(3):
        photo(tmp_path / "0", f"{number}.png", (400, 300))
    job = a_job(tmp_path, crop=crop, resolution=96, lowerResolutions=[80, 64, 64])
    [group] = groups = groups_of(job)
    shapes = [(64, 64), (80, 80), (96, 96)] if crop == "center" else [(72, 56), (88, 64), (104, 80)]
    assert group.shapes == [shape for shape in shapes for _ in range(3)]
    assert group.lower_shapes == {*shapes[:2]}
    dataset = Dataset(job, groups, {})
    sampler = dataset.sampler(2, lambda w, h: (1, h, w), DDPM)
    seen = set()
    for step in range(9):
        pair = [sampler.draw(step, position)[0] for position in range(2)]
        assert len({sample.noise.shape for sample in pair}) == 1
        seen |= {sample.row for sample in pair}
    assert seen == set(range(9))
    cache = cache_of(groups, tmp_path)
    for row, (width, height) in enumerate(group.shapes):
        assert cache.moments_of(torch.tensor([row]), height, width).shape == (1, 3, height, width)
    assert len(dataset.uris_by_name()["sks0"]) == 3


def own_images(*sizes: tuple[int, int]) -> OwnClassImages:
    images = [SourceImage(f"{i}.png", size, "", f"{i}", "f") for i, size in enumerate(sizes)]
    return OwnClassImages(ImageSet(images, []), [image.name for image in images])


@pytest.mark.parametrize(
    ("count", "own", "counts"),
    [
        pytest.param(8, [], {(72, 56): (0, 6), (56, 72): (0, 2)}, id="as the subject's"),
        pytest.param(
            8, [(400, 300)] * 7, {(72, 56): (7, 7), (56, 72): (0, 1)}, id="what is missing"
        ),
        pytest.param(4, [(400, 300)] * 4, {(72, 56): (4, 4), (56, 72): (4, 4)}, id="cropped"),
        pytest.param(1, [], {(72, 56): (0, 1), (56, 72): (0, 1)}, id="at least one"),
    ],
)
def test_class_images_have_the_shapes_of_the_subjects_images(
    count: int, own: list[tuple[int, int]], counts: dict[tuple[int, int], tuple[int, int]]
) -> None:
    weights = {(72, 56): 0.75, (56, 72): 0.25}
    shares = divide_among_shapes(count, own_images(*own), weights)
    assert {each.shape: (len(each.own.images), each.count) for each in shares} == counts


def test_more_shapes_than_class_images_share_those_of_the_user() -> None:
    weights = {(64, 64): 0.5, (72, 56): 0.3, (56, 72): 0.2}
    shares = divide_among_shapes(5, own_images(*[(400, 400)] * 4), weights)
    counts = {each.shape: (len(each.own.images), each.count) for each in shares}
    assert counts == {(64, 64): (4, 4), (72, 56): (0, 1), (56, 72): (4, 4)}


def test_parts_add_up() -> None:
    assert divide(10, [1, 1, 1]) in ([4, 3, 3], [3, 4, 3], [3, 3, 4])
    assert divide(5, [100, 1]) == [4, 1]
    assert divide(10, [97, 1, 1, 1]) == [7, 1, 1, 1]
    assert divide(10, [60, 36, 2, 2]) == [5, 3, 1, 1]
    assert divide(2, [1, 1, 1]) == [1, 1, 1]


@pytest.mark.parametrize(("resolution", "side"), [(32, 64), (96, 64), (224, 192), (512, 512)])
def test_a_square_picture_stays_a_square_at_any_resolution(resolution: int, side: int) -> None:
    assert nearest_shape((400, 400), resolution, 64) == (side, side)
