"""Latents: one row per variant, one encoding per distinct crop, kept for later attempts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth_storage import AccessDeniedError, Storage, StorageError, StorageSettings
from dreambooth_trainer.data.cache import build_cache
from dreambooth_trainer.data.crops import crop_to_square, variants
from dreambooth_trainer.data.images import load_images, read_pixels
from dreambooth_trainer.data.latents import ImageGroup, LatentStore, load_latents
from dreambooth_trainer.models.prompts import PromptTable
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.trainer.thread_ranks import on_ranks

SIDE = 16
CPU = torch.device("cpu")


class PixelFamily:
    """A family whose latents are the pixels; counts what it encodes."""

    def __init__(self, model_hash: str = "ab") -> None:
        self.model_hash = model_hash
        self.encoded = 0

    def encode_images(self, pixels: Tensor) -> Tensor:
        assert len(pixels) == 1, "the activations of several images may not fit"
        self.encoded += 1
        return pixels

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        return {"tokens": torch.zeros(len(captions), 1)}


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings())


def group(folder: Path, *sizes: tuple[int, int], flip: bool = True) -> ImageGroup:
    """Images of these sizes, in a folder of their own."""
    random = np.random.default_rng(len(list(folder.iterdir())))
    here = folder / f"images-{len(list(folder.iterdir()))}"
    here.mkdir()
    for number, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / f"{number:03d}.png")
    loaded = load_images(
        Storage(StorageSettings()), f"file://{here}", field="spec.x", resolution=SIDE
    )
    return ImageGroup(loaded.images, ["sks"] * len(loaded.images), variants("random", flip=flip))


def store_in(folder: Path, storage: Storage | None = None) -> LatentStore:
    return LatentStore(storage or Storage(StorageSettings()), f"file://{folder}/latents")


def load(
    family: Any,
    groups: Sequence[ImageGroup],
    store: LatentStore,
    ranks: Ranks | None = None,
    side: int = SIDE,
) -> Tensor:
    return load_latents(family, groups, side, store, ranks or Ranks(Topology()), CPU)


@pytest.mark.parametrize(
    ("sizes", "encoded"),
    [
        pytest.param([[(16, 16), (16, 16)], [(16, 16)]], 3 * 2, id="square"),
        pytest.param([[(18, 16)]], 3 * 2, id="two pixels wider: three places"),
        pytest.param([[(64, 16), (16, 64)]], 2 * 16, id="every place differs"),
    ],
)
def test_each_distinct_crop_is_encoded_once(
    tmp_path: Path, storage: Storage, sizes: list[list[tuple[int, int]]], encoded: int
) -> None:
    groups = [group(tmp_path, *each) for each in sizes]
    family: Any = PixelFamily()
    cache = build_cache(
        family, groups, SIDE,
        text_is_trained=True, store=store_in(tmp_path), ranks=Ranks(Topology()), device=CPU,
    )  # fmt: skip
    assert family.encoded == encoded
    expected = [
        crop_to_square(pixels, SIDE, variant)
        for group in groups
        for pixels in read_pixels(storage, group.images)
        for variant in group.variants
    ]
    assert cache.moments.equal(torch.stack(expected))


def test_each_rank_reads_and_encodes_its_share_alone(tmp_path: Path) -> None:
    groups = [group(tmp_path, *[(16, 16)] * 6), group(tmp_path, *[(16, 16)] * 6)]
    alone = load(PixelFamily(), groups, store_in(tmp_path / "one"))

    def encode(ranks: Ranks) -> tuple[Tensor, int, int]:
        family = PixelFamily()
        counting = _CountingStorage(StorageSettings())
        latents = load(family, groups, store_in(tmp_path / "three", counting), ranks)
        return latents, family.encoded, counting.images_read

    for latents, encoded, images_read in on_ranks(3, encode):
        assert latents.equal(alone)
        assert encoded == 4 * 2
        assert images_read == 4


class _CountingStorage(Storage):
    images_read = 0

    def read(self, uri: str, **options: Any) -> bytes:
        self.images_read += uri.endswith(".png")
        return super().read(uri, **options)


def test_a_later_attempt_reads_the_latents(tmp_path: Path) -> None:
    groups, store = [group(tmp_path, (20, 16), (16, 16))], store_in(tmp_path)
    first = load(PixelFamily(), groups, store)
    again = PixelFamily()
    assert load(again, groups, store).equal(first)
    assert again.encoded == 0
    assert all(
        latents.equal(first) for latents in on_ranks(2, lambda r: load(again, groups, store, r))
    )
    assert again.encoded == 0


@pytest.mark.parametrize("change", ["model", "resolution", "image", "variants", "order"])
def test_whatever_changes_the_latents_has_a_file_of_its_own(tmp_path: Path, change: str) -> None:
    known = group(tmp_path, (16, 16), (16, 16))
    store = store_in(tmp_path)
    load(PixelFamily(), [known], store)
    family = PixelFamily("cd" if change == "model" else "ab")
    others = {
        "image": group(tmp_path, (16, 16), (16, 16)),
        "variants": ImageGroup(known.images, known.captions, variants("random", flip=False)),
        "order": ImageGroup(known.images[::-1], known.captions, known.variants),
    }
    load(family, [others.get(change, known)], store, side=8 if change == "resolution" else SIDE)
    assert family.encoded > 0


def damage_data(folder: Path) -> None:
    [data] = folder.glob("*.safetensors")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)


def truncate_data(folder: Path) -> None:
    [data] = folder.glob("*.safetensors")
    data.write_bytes(data.read_bytes()[:100])


def damage_record(folder: Path) -> None:
    [record] = folder.glob("*.json")
    record.write_text("[]")


def lose_data(folder: Path) -> None:
    [data] = folder.glob("*.safetensors")
    data.unlink()


@pytest.mark.parametrize("damage", [damage_data, truncate_data, damage_record, lose_data])
def test_damaged_latents_are_encoded_again_and_replaced(tmp_path: Path, damage: Any) -> None:
    groups, store = [group(tmp_path, (16, 16))], store_in(tmp_path)
    first = load(PixelFamily(), groups, store)
    damage(tmp_path / "latents")
    again = PixelFamily()
    assert load(again, groups, store).equal(first)
    assert again.encoded == 2
    after = PixelFamily()
    assert load(after, groups, store).equal(first)
    assert after.encoded == 0


def test_all_ranks_encode_when_one_cannot_read_the_latents(tmp_path: Path) -> None:
    groups, store = [group(tmp_path, (16, 16), (16, 16))], store_in(tmp_path)
    first = load(PixelFamily(), groups, store)

    def encode(ranks: Ranks) -> tuple[Tensor, int]:
        family = PixelFamily()
        # Rank 1 looks where nothing is, as if storage listed the file later there.
        own = store if ranks.topology.rank == 0 else store_in(tmp_path / "other")
        return load(family, groups, own, ranks), family.encoded

    for latents, encoded in on_ranks(2, encode):
        assert latents.equal(first)
        assert encoded == 2


class _RefusingStorage(Storage):
    def read(self, uri: str, **options: Any) -> bytes:
        if "/latents/" in uri:
            raise AccessDeniedError(uri, "may not be read", "grant it")
        return super().read(uri, **options)


def test_all_ranks_encode_when_storage_refuses_the_latents_to_one(tmp_path: Path) -> None:
    groups, store = [group(tmp_path, (16, 16), (16, 16))], store_in(tmp_path)
    first = load(PixelFamily(), groups, store)

    def encode(ranks: Ranks) -> Tensor:
        refused = store_in(tmp_path, _RefusingStorage(StorageSettings()))
        own = store if ranks.topology.rank == 0 else refused
        return load(PixelFamily(), groups, own, ranks)

    assert all(latents.equal(first) for latents in on_ranks(2, encode))


def test_storage_that_refuses_latents_does_not_stop_training(tmp_path: Path) -> None:
    groups = [group(tmp_path, (16, 16))]
    (tmp_path / "latents").write_text("a file where the folder would be")
    assert len(load(PixelFamily(), groups, store_in(tmp_path))) == 16


def test_an_image_that_has_changed_meanwhile_is_an_error(tmp_path: Path) -> None:
    changed = group(tmp_path, (16, 16))
    path = Path(changed.images[0].uri.removeprefix("file://"))
    Image.new("RGB", (16, 16)).save(path)
    with pytest.raises(StorageError, match=r"^spec\.x: file://.*sha256"):
        load(PixelFamily(), [changed], store_in(tmp_path))


def test_record_of_another_attempts_latents_is_not_believed(tmp_path: Path) -> None:
    """A stale attempt and the current one may both write: latents of one, record of the other."""
    groups, store = [group(tmp_path, (16, 16))], store_in(tmp_path)
    load(PixelFamily(), groups, store)
    [latents] = (tmp_path / "latents").glob("*.safetensors")
    content = latents.read_bytes()
    latents.write_bytes(content[:-4] + b"else")
    family = PixelFamily()
    load(family, groups, store)
    assert family.encoded
    assert latents.read_bytes() == content


class CaptionFamily(PixelFamily):
    """Its prompts have been encoded, to four bytes each."""

    def __init__(self) -> None:
        super().__init__()
        texts = ("", "sks")
        self.prompt_table = PromptTable(
            {(False, text): {"states": torch.full((1, 1), float(len(text)))} for text in texts}
        )

    def encode_rows(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        return self.prompt_table.rows(captions)


@pytest.mark.parametrize(("limit", "stays"), [(8, False), (7, True)])
def test_conditioning_larger_than_its_share_of_the_device_stays_in_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, stays: bool
) -> None:
    monkeypatch.setattr("dreambooth_trainer.data.cache.DEVICE_BYTES", limit)
    family: Any = CaptionFamily()
    cache = build_cache(
        family, [group(tmp_path, (16, 16))], SIDE,
        text_is_trained=False, keeps_base=True,
        store=store_in(tmp_path), ranks=Ranks(Topology()), device=CPU,
    )  # fmt: skip
    assert (cache.host is not None, cache.conditioning is None) == (stays, stays)
    # Its text encoders may be gone: nothing encodes tokens, which this family cannot.
    assert cache.conditioning_of(family, torch.tensor([0, 1]))["states"].tolist() == [[0], [3]]
    assert cache.base_conditioning is None
