"""Class images are made once: by all ranks together, for every later job of the same class."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

from dreambooth_api.models.prior import Sampler
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.data.images import read_pixels
from dreambooth_trainer.data.prior.class_image_cache import ClassImageRecipe
from dreambooth_trainer.data.prior.class_images import ClassImageSet, load_class_images
from dreambooth_trainer.data.prior.own_class_images import load_own_class_images
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.process.chunks import CHUNK_SIZE
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import BadDataError
from dreambooth_trainer.process.signals import StoppedError
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.resolved_job import ResolvedJob
from tests.trainer.resolved import job_with, resolve
from tests.trainer.thread_ranks import on_ranks

MODEL_HASH = "ab" * 32
LOCAL = StorageSettings()


def a_job(output: str, count: int = 12, resolution: int = 64, **prior: Any) -> ResolvedJob:
    made = {"count": count, "steps": 2, "guidanceScale": 3, **prior}
    return resolve(job_with(output=output, prior=made, training={"resolution": resolution}))


Make = Callable[..., ClassImageSet]


@pytest.fixture
def make(random_pipeline: Any, tmp_path: Path) -> Make:
    """Makes the class images of a job with this process alone, in a cache on this machine."""

    def _make(
        count: int = 12, noun: str = "mug", model_hash: str = MODEL_HASH, resolution: int = 64,
        watch: dict[str, Any] | None = None, **prior: Any,
    ) -> ClassImageSet:  # fmt: skip
        job, storage = a_job(f"file://{tmp_path}", count, resolution, **prior), Storage(LOCAL)
        return load_class_images(
            job,
            noun,
            load_own_class_images(storage, job),
            job.spec.prior.count,
            storage=storage,
            ranks=Ranks(Topology()),
            model_hash=model_hash,
            **{
                "family": StableDiffusion(random_pipeline, ""),
                "progress": lambda *_: None,
                "should_stop": lambda: False,
                **(watch or {}),
            },
        )

    return _make


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def contents(found: ClassImageSet) -> list[bytes]:
    return [image.tobytes() for image in pixels(found)]


def pixels(found: ClassImageSet) -> list[Image.Image]:
    return list(read_pixels(Storage(LOCAL), found.images))


def test_images_are_made_once_and_reused_by_the_next_job(make: Make, tmp_path: Path) -> None:
    first = make()
    assert (first.reused, first.generated) == (0, 12)
    assert len(set(contents(first))) == 12
    assert {image.size for image in first.images} == {(64, 64)}
    written = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert [path.name for path in written] == [f"{i:05d}.png" for i in range(12)]
    second = make()
    assert (second.reused, second.generated) == (12, 0)
    assert contents(second) == contents(first)
    assert {path: path.stat().st_mtime_ns for path in files(tmp_path)} == written


def test_the_model_is_not_used_when_nothing_is_missing(make: Make) -> None:
    make(count=3)
    assert len(make(count=3, watch={"family": None}).images) == 3


def test_a_larger_count_makes_only_the_new_ones(make: Make) -> None:
    few = make(count=5)
    more = make(count=10)
    assert (more.reused, more.generated) == (5, 5)
    assert contents(more)[:5] == contents(few)
    less = make(count=2)
    assert (less.reused, less.generated) == (2, 0)
    assert contents(less) == contents(few)[:2]


@pytest.mark.parametrize(
    "change",
    [
        {"noun": "cup"},
        {"model_hash": "cd" * 32},
        {"sampler": "ddim"},
        {"steps": 3},
        {"guidanceScale": 4},
        {"seed": 1},
        {"resolution": 72},
        {"prompt": "a {class} on a table"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_images_has_a_cache_of_its_own(
    make: Make, change: dict[str, Any]
) -> None:
    make(count=1)
    assert make(count=1, **change).generated == 1
    assert make(count=1).generated == 0


def test_seeds_overlap_in_order(make: Make) -> None:
    """Image i is made from seed + i (the batch is another one, so up to rounding)."""
    first = make(count=4)
    shifted = make(count=4, seed=1)
    for left, right in zip(pixels(first)[1:], pixels(shifted), strict=False):
        difference = np.asarray(left).astype(int) - np.asarray(right)
        assert np.abs(difference).max() <= 1


def test_a_damaged_cached_image_is_made_again(make: Make, tmp_path: Path) -> None:
    good = contents(make(count=5))
    paths = files(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    paths[2].write_bytes(b"")
    Image.new("RGB", (32, 32)).save(paths[3])
    again = make(count=5)
    assert (again.reused, again.generated) == (2, 3)
    for found, expected in zip(contents(again), good, strict=True):
        difference = np.frombuffer(found, np.uint8).astype(int) - np.frombuffer(expected, np.uint8)
        assert np.abs(difference).max() <= 1  # the others are of another batch now
    assert make(count=5).generated == 0


def test_the_cache_says_what_it_holds(make: Make, tmp_path: Path) -> None:
    make(count=1)
    [manifest] = tmp_path.rglob("manifest.json")
    assert json.loads(manifest.read_text()) == {
        "model": MODEL_HASH,
        "prompt": "a photo of a mug",
        "sampler": "dpm-solver++",
        "steps": 2,
        "guidance_scale": 3.0,
        "seed": 0,
        "resolution": 64,
    }
    key = ClassImageRecipe.of(a_job("file:///out", count=1), "a photo of a mug", MODEL_HASH).key()
    assert manifest.parent == tmp_path / "prior-cache" / key


def test_another_jobs_image_wins_over_the_one_just_made(
    make: Make, random_pipeline: Any, tmp_path: Path
) -> None:
    """Another job writes the same image between this one's look at the cache and its write."""
    key = ClassImageRecipe.of(a_job("file:///out"), "a photo of a mug", MODEL_HASH).key()
    other = tmp_path / "prior-cache" / key / "00000.png"

    class Overtaken(StableDiffusion):
        def sampling_scheduler(self, sampler: Sampler) -> Any:
            Image.new("RGB", (64, 64), (1, 2, 3)).save(other)
            return super().sampling_scheduler(sampler)

    found = make(count=2, watch={"family": Overtaken(random_pipeline, "")})
    assert pixels(found)[0].getpixel((9, 9)) == (1, 2, 3)
    assert pixels(found)[1].getpixel((9, 9)) != (1, 2, 3)


def test_progress_counts_what_is_there(make: Make) -> None:
    make(count=3)
    seen: list[tuple[int, int]] = []
    make(count=20, watch={"progress": lambda *counts: seen.append(counts)})
    assert seen == [(8, 20), (16, 20), (20, 20)]


def test_a_stop_keeps_what_was_made(make: Make, tmp_path: Path) -> None:
    def should_stop() -> bool:
        return len(files(tmp_path)) == CHUNK_SIZE

    with pytest.raises(StoppedError, match="class images"):
        make(count=20, watch={"should_stop": should_stop})
    rest = make(count=20)
    assert (rest.reused, rest.generated) == (CHUNK_SIZE, 20 - CHUNK_SIZE)


def test_the_users_own_images_come_first(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for level in range(3):
        Image.new("RGB", (80, 64), (level, 0, 0)).save(folder / f"{level}.png")
    (folder / "bad.jpg").write_bytes(b"bad")
    found = make(count=5, images=f"file://{folder}")
    assert [image.name for image in found.images] == [
        "0.png", "1.png", "2.png", "00000.png", "00001.png",
    ]  # fmt: skip
    assert found.generated == 2
    assert found.captions == ["a photo of a mug"] * 5
    enough = make(count=2, images=f"file://{folder}")
    assert [image.name for image in enough.images] == ["0.png", "1.png"]
    assert (enough.reused, enough.generated) == (0, 0)


PROMPTS = ["a photo of a {class}", "a {class} on grass"]


def test_prompts_take_turns_and_stay_with_their_images(make: Make) -> None:
    """Image i is what its prompt alone gives for seed + i (other batches, so up to rounding)."""
    found = make(count=5, prompts=PROMPTS)
    photo, grass = "a photo of a mug", "a mug on grass"
    assert found.captions == [photo, grass, photo, grass, photo]
    for prompt, indices in ((photo, (0, 2, 4)), (grass, (1, 3))):
        alone = pixels(make(count=5, model_hash="cd" * 32, prompt=prompt))
        for i in indices:
            difference = np.asarray(pixels(found)[i]).astype(int) - np.asarray(alone[i])
            assert np.abs(difference).max() <= 1


def test_jobs_share_the_images_of_the_prompts_that_they_have_in_common(make: Make) -> None:
    make(count=4, prompts=PROMPTS)
    assert make(count=4, prompts=[PROMPTS[0], "a red {class}"]).reused == 2
    assert make(count=4, prompts=PROMPTS[::-1]).reused == 0  # they are of other seeds
    assert make(count=4).reused == 4


def test_a_stop_keeps_the_images_of_all_prompts(make: Make, tmp_path: Path) -> None:
    def should_stop() -> bool:
        return len(files(tmp_path)) == CHUNK_SIZE

    with pytest.raises(StoppedError):
        make(count=10, prompts=PROMPTS, watch={"should_stop": should_stop})
    rest = make(count=10, prompts=PROMPTS)
    assert (rest.reused, rest.generated) == (CHUNK_SIZE, 10 - CHUNK_SIZE)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for level in range(3):
        Image.new("RGB", (80, 64), (level, 0, 0)).save(folder / f"{level}.png")
    return folder


def test_the_users_own_images_have_the_captions_beside_them(make: Make, own_folder: Path) -> None:
    (own_folder / "1.txt").write_text("a blue mug\non a desk\n")
    found = make(count=5, images=f"file://{own_folder}", prompt="the {class}", prompts=PROMPTS)
    assert found.captions == [
        "the mug", "a blue mug on a desk", "the mug", "a photo of a mug", "a mug on grass",
    ]  # fmt: skip


def test_captions_of_class_images_that_cannot_be_used_are_listed(
    make: Make, own_folder: Path
) -> None:
    (own_folder / "0.txt").write_text("my SKS mug")
    (own_folder / "2.png.txt").write_text("")
    with pytest.raises(BadDataError, match=r"spec\.prior\.images: 2 caption\(s\)") as caught:
        make(count=5, images=f"file://{own_folder}")
    assert "  2.png.txt is empty: describe the image" in str(caught.value)
    assert "the caption of 0.png contains the identifier 'sks'" in str(caught.value)


def test_a_folder_of_the_users_without_images_is_bad_data(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"spec\.prior\.images"):
        make(images=f"file://{tmp_path}/none")


class Counted(StableDiffusion):
    """Counts the batches that it makes."""

    chunks = 0

    def sampling_scheduler(self, sampler: Sampler) -> Any:
        self.chunks += 1
        return super().sampling_scheduler(sampler)


@pytest.mark.usefixtures("s3_env")
def test_three_ranks_make_the_same_set_as_one(
    make: Make, random_model: Path, s3_endpoint: str, bucket: str
) -> None:
    """Bit for bit, on S3, each rank its share, and every rank reads the whole set."""
    prompts = ["a photo of a {class}", "a {class} on grass", "a red {class}"]
    alone = make(count=28, prompts=prompts)
    job = a_job(f"s3://{bucket}/out", count=28, prompts=prompts)
    storage = Storage(StorageSettings(s3_endpoint, "us-east-1", "path"))
    families = [
        Counted(StableDiffusionPipeline.from_pretrained(random_model, safety_checker=None), "")
        for _ in range(3)
    ]

    def load(ranks: Ranks) -> ClassImageSet:
        return load_class_images(
            job,
            "mug",
            load_own_class_images(storage, job),
            job.spec.prior.count,
            storage=storage,
            ranks=ranks,
            model_hash=MODEL_HASH,
            family=families[ranks.topology.rank],
            progress=lambda *_: None,
            should_stop=lambda: False,
        )

    everyone = on_ranks(3, load)
    assert [found.generated for found in everyone] == [28] * 3
    assert [hash_of(found, storage) for found in everyone] == [hash_of(alone)] * 3
    assert [family.chunks for family in families] == [2, 1, 1]
    assert [found.captions for found in everyone] == [alone.captions] * 3


def hash_of(found: ClassImageSet, storage: Storage | None = None) -> str:
    images = read_pixels(storage or Storage(LOCAL), found.images)
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()
