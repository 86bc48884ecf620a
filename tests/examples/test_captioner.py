"""The committed captioner: the trainer's own code loads it, and it describes unseen drawings."""

import sys
from pathlib import Path

import pytest
import torch

TINY_SD = Path(__file__).resolve().parents[2] / "examples" / "tiny-sd"
CAPTIONER = TINY_SD / "captioner"
sys.path.insert(0, str(TINY_SD))

from PIL import Image  # noqa: E402

from dreambooth_trainer.captioning.answers import (  # noqa: E402
    Answer,
    Caption,
    PhotoCheck,
    Prompts,
)
from dreambooth_trainer.captioning.models.interface import Request, Sampling  # noqa: E402
from dreambooth_trainer.captioning.models.local import LocalModel  # noqa: E402
from tinysd.captioner import lessons, scoring  # noqa: E402
from tinysd.dataset import DrawingSet, draw  # noqa: E402

MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return LocalModel(CAPTIONER, "captioner", torch.device("cpu"))


def drawings(count: int) -> DrawingSet:
    """Of a set that the captioner never saw."""
    return DrawingSet.of(draw(97, index) for index in range(count))


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in CAPTIONER.iterdir()) <= MAX_BYTES


def test_it_names_class_and_colour_of_drawings_that_it_never_saw(model: LocalModel) -> None:
    unseen = drawings(40)
    texts = scoring.captions(model, unseen, lessons.PLAIN)
    named = [
        {words.kind, words.colour} <= set(text.partition(" on ")[0].split())
        for text, words in zip(texts, unseen.words, strict=True)
    ]
    assert sum(named) >= 0.9 * len(named), texts


LONG = (pytest.mark.slow, pytest.mark.timeout(3600))


@pytest.mark.parametrize(
    ("temperature", "kind", "count"),
    [
        (0, Caption, 4),
        (2, Caption, 10),
        (2, PhotoCheck, 4),
        (2, Prompts, 1),
        pytest.param(2, Caption, 1000, marks=LONG),
        pytest.param(2, PhotoCheck, 1000, marks=LONG),
        pytest.param(2, Prompts, 200, marks=LONG),
    ],
)
def test_every_answer_is_valid(
    model: LocalModel, temperature: float, kind: type[Answer], count: int
) -> None:
    pictures = [Image.fromarray(each) for each in drawings(10).pixels]
    requests = [
        Request("0.png", "", "Describe.", Sampling(temperature), seed, pictures[seed % 10])
        for seed in range(count)
    ]
    for text in model.answer(requests, kind):
        kind.model_validate_json(text)
