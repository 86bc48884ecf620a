"""Encoders of scores, in the layouts in which they are published."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from dreambooth_api.models.results.evaluation import PRESETS, EncoderModels, Evaluation
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.evaluation.encoder_config import (
    EncoderSource,
    encoder_sources,
    read_encoder,
)
from dreambooth_trainer.evaluation.encoders import ImageEncoder, TextEncoder
from dreambooth_trainer.evaluation.preprocessing import read_preprocessing
from dreambooth_trainer.process.errors import BadModelError
from tests.corpus.encoders import ENCODERS, READ_TEXT, drop_weight, write_encoder
from tests.corpus.models import edit

STORAGE = Storage(StorageSettings())
CPU = torch.device("cpu")
TINY_CLIP = Path(__file__).resolve().parents[3] / "examples" / "tiny-sd" / "clip"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of each encoder in `ENCODERS`, by its name."""
    root = tmp_path_factory.mktemp("encoders")
    return lambda name: root / name if (root / name).exists() else write_encoder(name, root / name)


def load(folder: Path, *, reads_text: bool = False, device: torch.device = CPU) -> ImageEncoder:
    field = f"spec.evaluation.encoders.{'text' if reads_text else 'image'}"
    source = EncoderSource(str(folder), field, reads_text)
    kind = TextEncoder if reads_text else ImageEncoder
    return kind(folder, read_encoder(source, STORAGE), source, device)


def some_images(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (40, 30), (i * 6, 80, 200)) for i in range(count)]


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_are_of_unit_length_and_do_not_depend_on_their_company(
    published: Callable[[str], Path], name: str
) -> None:
    encoder = load(published(name))
    assert encoder.record.name == name
    images = some_images(35)  # two chunks
    vectors = encoder.images(images)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(35), atol=1e-5)
    assert torch.allclose(vectors[-1:], encoder.images(images[-1:]), atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[30], atol=1e-5)


@pytest.mark.parametrize("name", READ_TEXT)
def test_texts_lie_in_the_space_of_images(published: Callable[[str], Path], name: str) -> None:
    encoder = load(published(name), reads_text=True)
    assert isinstance(encoder, TextEncoder)
    texts = encoder.texts(["a photo of a mug", "a photo of a dog", "A Photo of a Mug"])
    assert texts.shape == (3, encoder.images(some_images(1)).shape[1])
    assert torch.allclose(texts.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(texts[0], texts[1], atol=1e-4)
    assert torch.equal(texts[0], texts[2]), "texts are read in lower case"
    assert encoder.texts(["a photo " * 200]).isfinite().all(), "long texts are cut"


def test_the_model_is_on_the_device_that_it_is_given() -> None:
    """As on a GPU: the meta device mixes with no other, and nothing can be copied from it."""
    with pytest.raises(NotImplementedError, match="meta"):
        load(TINY_CLIP, device=torch.device("meta")).images(some_images(1))


def test_the_record_tells_weights_apart(published: Callable[[str], Path], tmp_path: Path) -> None:
    first = load(published("DINOv2")).record
    assert first.source == str(published("DINOv2"))
    other = write_encoder("DINOv2", tmp_path / "other")
    assert load(other).record.sha256 == first.sha256
    (other / "model.safetensors").write_bytes(
        (other / "model.safetensors").read_bytes()[:-1] + b"\x01"
    )
    assert load(other).record.sha256 != first.sha256


def test_a_missing_weight_is_refused_rather_than_random(
    published: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = write_encoder("DINOv2", tmp_path / "model")
    drop_weight(folder)
    with pytest.raises(BadModelError, match=r"^spec\.evaluation\.encoders\.image: .*missing"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("DINO", lambda m: (m / "pytorch_model.bin").unlink(), "there are no weights"),
        ("DINO", lambda m: (m / "pytorch_model.bin").write_text("version https://git-lfs"),
         "pytorch_model.bin"),
        ("DINO", lambda m: (m / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        ("DINO", lambda m: edit(m / "preprocessor_config.json", size={"height": 9}), "its size"),
        ("DINO", lambda m: edit(m / "preprocessor_config.json", size=64), "can be built"),
        ("DINOv2", lambda m: edit(m / "preprocessor_config.json", image_std=[0] * 3), "image_std"),
        ("DINOv2", lambda m: edit(m / "config.json", num_channels=4), "can be built"),
        ("DINOv3", lambda m: edit(m / "config.json", model_type="beit"), "it is a beit model"),
        ("CLIP", lambda m: (m / "vocab.json").unlink(), "there is no tokenizer.json"),
        ("CLIP", lambda m: edit(m / "config.json", text_config={"hidden_size": "x"}), "describes"),
        ("SigLIP", lambda m: (m / "tokenizer.json").unlink(), "there is no tokenizer.json"),
        ("SigLIP", lambda m: (m / "model.safetensors").write_bytes(b"x"), "damaged"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_score_says_why(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    folder = write_encoder(name, tmp_path / "model")
    role = "text" if name in READ_TEXT else "image"
    source = EncoderSource(str(folder), f"spec.evaluation.encoders.{role}", role == "text")
    read_encoder(source, STORAGE)
    spoil(folder)
    with pytest.raises(BadModelError) as raised:
        read_encoder(source, STORAGE)
    assert str(raised.value).startswith(f"spec.evaluation.encoders.{role}: {folder} cannot score")
    assert message in str(raised.value)


def test_a_vision_backbone_reads_no_prompts(published: Callable[[str], Path]) -> None:
    with pytest.raises(BadModelError, match="it is a vit model; CLIP, SigLIP can be used here"):
        load(published("DINO"), reads_text=True)


def test_a_job_names_encoders_or_takes_those_of_a_preset() -> None:
    images, text = encoder_sources(Evaluation(preset="modern"))
    assert (images.source, text.source) == PRESETS["modern"]
    assert (images.field, images.reads_text) == ("spec.evaluation.preset", False)
    own = Evaluation(encoders=EncoderModels(text="/models/clip"))
    images, text = encoder_sources(own)
    assert images.source == PRESETS["paper"][0]
    assert (text.source, text.field) == ("/models/clip", "spec.evaluation.encoders.text")
    assert text.reads_text


@pytest.mark.parametrize(
    ("processor", "config"),
    [
        (ViTImageProcessorPil, {"size": {"height": 24, "width": 32}, "resample": 2}),
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 32}, "crop_size": 32}),
        (BitImageProcessorPil, {"size": {"shortest_edge": 37}, "crop_size": 32}),
        (SiglipImageProcessorPil, {"size": {"height": 32, "width": 32}}),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (33, 101), (32, 32), (20, 21)])
def test_preprocessing_is_that_of_transformers(
    processor: type, config: dict[str, object], size: tuple[int, int]
) -> None:
    noise = torch.randint(256, (*size[::-1], 3), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.numpy().astype("uint8"))
    theirs = processor(**config)
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    ours = read_preprocessing(json.loads(theirs.to_json_string()))
    assert ours.shape == tuple(expected.shape[2:])
    assert torch.allclose(ours.apply([image]), expected, atol=1e-5)
