"""tiny-sd as its users meet it: the committed weights, the drawings and the subjects."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

REPO = Path(__file__).resolve().parents[2]
TINY_SD = REPO / "examples" / "tiny-sd"
SUBJECTS = REPO / "examples" / "subjects"
sys.path.insert(0, str(TINY_SD))

from tinysd import classifiers, dino, scoring, subjects  # noqa: E402
from tinysd.captions import COLOURS, KINDS, Words, caption, random_caption  # noqa: E402
from tinysd.dataset import draw, draw_object, draw_set, draw_views  # noqa: E402
from tinysd.fitting import as_tensor  # noqa: E402
from tinysd.text import train_tokenizer  # noqa: E402

# diffusers 0.42 has not adapted to numpy 2's __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAX_BYTES = 13_000_000
SUBJECT_NAMES = sorted(subjects.SUBJECTS)
BARS = {
    "classifier-on-drawings": {"class": 0.97, "colour": 0.97},
    "prompts": {"class": 0.9, "colour": 0.9},
    "clip-texts": {"class": 0.9, "colour": 0.97},
    "dino": {"subjects": 0.95, "one-of-five-objects": 0.95, "one-of-sixty-objects": 0.9},
    "captioner": {"class": 0.9, "colour": 0.9, "class-and-colour": 0.9},
}
"""Shares that `evaluate.py` has to find in full, where the tests here take samples."""


def opened(path):
    """The image with its metadata, its file closed."""
    with Image.open(path) as image:
        image.load()
        return image


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def models():
    return scoring.load_models(
        TINY_SD / "model", TINY_SD / "clip", TINY_SD / "classifier.safetensors"
    )


def test_model_loads_unchanged_with_plain_diffusers():
    pipeline = StableDiffusionPipeline.from_pretrained(TINY_SD / "model")
    assert pipeline.safety_checker is None
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64


def test_weights_stay_small():
    files = [TINY_SD / "classifier.safetensors"]
    for folder in ("model", "clip", "dino"):
        files += [path for path in (TINY_SD / folder).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt")]


@pytest.mark.parametrize("part", BARS)
def test_committed_scores_reach_their_bars(part):
    scores = json.loads((TINY_SD / "scores.json").read_text())[part]
    assert {name: scores[name] for name, bar in BARS[part].items() if scores[name] < bar} == {}


def test_an_unknown_word_becomes_tokens_of_its_own(models):
    plain = models.tokenizer("a photo of a mug").input_ids
    named = models.tokenizer("a photo of a sks mug").input_ids
    assert len(named) > len(plain)
    assert set(plain) < set(named)
    assert models.tokenizer.unk_token_id not in named[1:-1]


def test_samples_show_the_class_and_the_colour_of_their_prompts(models):
    words = [Words(kind, list(COLOURS)[(3 * i) % 8]) for i, kind in enumerate(KINDS * 2)]
    pictures = scoring.sample(models.pipeline, [caption(word) for word in words], steps=15)
    kinds, colours = classifiers.recognise(models.classifier, pictures)
    assert np.mean([seen == word.kind for seen, word in zip(kinds, words, strict=True)]) >= 0.7
    assert np.mean([seen == word.colour for seen, word in zip(colours, words, strict=True)]) >= 0.7


@pytest.mark.slow
def test_a_class_prompt_gives_various_pictures(models):
    pictures = scoring.sample(models.pipeline, ["a photo of a mug"] * 12, seed=30, steps=15)
    assert len(set(classifiers.recognise(models.classifier, pictures)[1])) >= 3


def test_classifier_names_drawings_that_it_never_saw(models):
    scores = scoring.classifier_scores(models, draw_set(seed=99, count=200))
    assert scores["class"] >= 0.97
    assert scores["colour"] >= 0.97


def test_clip_tells_an_object_from_others_of_its_class(models):
    drawings = [draw(5, i) for i in range(300)]
    for name in SUBJECT_NAMES:
        own = scoring.embed(models.clip, scoring.load_pictures(SUBJECTS / name))
        held_out = scoring.embed(models.clip, scoring.load_pictures(SUBJECTS / name / "held-out"))
        noun = subjects.SUBJECTS[name].noun
        others = [drawing.pixels for drawing in drawings if drawing.words.kind == noun]
        other = scoring.embed(models.clip, np.stack(others))
        assert float((own @ held_out.T).mean()) > float((own @ other.T).mean()) + 0.2


def test_clip_reads_class_and_colour(models):
    scores = scoring.clip_text_scores(models, draw_set(seed=98, count=200))
    assert scores["class"] >= 0.85
    assert scores["colour"] >= 0.97


def test_dino_finds_the_object_of_held_out_pictures():
    model = AutoModel.from_pretrained(TINY_SD / "dino", dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(TINY_SD / "dino")
    pixels = draw_object(9, 0, 1)
    inputs = processor(images=Image.fromarray(pixels[0]), return_tensors="pt").pixel_values
    torch.testing.assert_close(inputs, as_tensor(pixels), atol=1e-3, rtol=1e-3)
    folders = [SUBJECTS / name for name in SUBJECT_NAMES]
    own = [scoring.load_pictures(folder) for folder in folders]
    held_out = [scoring.load_pictures(folder / "held-out") for folder in folders]
    assert dino.nearest_share(model, own, held_out) >= 0.95
    objects = [draw_object(9, index, 8) for index in range(10)]
    own, held_out = [each[:5] for each in objects], [each[5:] for each in objects]
    assert dino.nearest_share(model, own, held_out) >= 0.95


def test_clip_loads_with_its_processor():
    model = CLIPModel.from_pretrained(TINY_SD / "clip", dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(TINY_SD / "clip")
    images = [Image.fromarray(draw(5, i).pixels) for i in range(2)]
    texts = ["a mug", "a sks fish"]
    inputs = processor(text=texts, images=images, padding="max_length", return_tensors="pt")
    assert model(**inputs).logits_per_image.shape == (2, 2)


def test_training_the_tokenizer_again_gives_the_same_tokens(tmp_path):
    rng = np.random.default_rng(0)
    texts = [random_caption(Words(kind, "red"), rng) for kind in KINDS for _ in range(1500)]
    first, again = (train_tokenizer(texts, tmp_path / name) for name in ("first", "again"))
    assert first.get_vocab() == again.get_vocab()
    assert first.tokenize("a red mug") == ["a</w>", "red</w>", "mug</w>"]


def test_drawing_is_a_pure_function_of_seed_and_index():
    once, again, other = draw(1, 7), draw(1, 7), draw(1, 8)
    assert once.words == again.words
    assert np.array_equal(once.pixels, again.pixels)
    assert not np.array_equal(once.pixels, other.pixels)


def test_views_show_one_object_in_different_pictures():
    first, second = draw_views(2, 3)
    assert (first.words.kind, first.words.colour) == (second.words.kind, second.words.colour)
    assert not np.array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize("name", SUBJECT_NAMES)
def test_subject_holds_five_photos_one_wide_and_one_on_its_side(name):
    photos = [opened(path) for path in sorted((SUBJECTS / name).glob("*.jpg"))]
    assert len(photos) == 5
    assert sum(photo.width != photo.height for photo in photos) == 1
    assert sum(photo.getexif().get(0x0112, 1) != 1 for photo in photos) == 1
    assert all(min(photo.size) >= 256 for photo in photos)
    assert len(list((SUBJECTS / name / "held-out").glob("*.png"))) == 8


@pytest.fixture(scope="module")
def drawn_again(tmp_path_factory):
    """A folder with all subjects, as `draw_subjects.py` draws them."""
    folder = tmp_path_factory.mktemp("subjects")
    subjects.write_subjects(folder)
    return folder


@pytest.mark.parametrize("name", SUBJECT_NAMES)
def test_photo_on_its_side_shows_upright_like_it_was_drawn(name, drawn_again):
    drawn = ImageOps.exif_transpose(opened(drawn_again / name / "4.jpg"))
    upright = ImageOps.exif_transpose(opened(SUBJECTS / name / "4.jpg"))
    difference = np.abs(np.asarray(upright, float) - np.asarray(drawn, float)).mean()
    assert difference < 1
    on_its_side = np.abs(
        np.asarray(opened(SUBJECTS / name / "4.jpg"), float) - np.asarray(drawn, float)
    ).mean()
    assert on_its_side > 5


def test_asking_for_help_draws_nothing():
    before = {path: path.stat().st_mtime_ns for path in SUBJECTS.rglob("*.png")}
    command = [sys.executable, TINY_SD / "draw_subjects.py", "--help"]
    assert "usage: draw_subjects.py" in subprocess.check_output(command, text=True)
    assert {path: path.stat().st_mtime_ns for path in SUBJECTS.rglob("*.png")} == before
