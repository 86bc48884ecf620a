"""What an answer may do to a caption, and what photos are warned of: nothing else changes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.captioning.answers import MAX_CAPTION, PhotoCheck
from dreambooth_trainer.captioning.captions import caption_of, caption_request
from dreambooth_trainer.captioning.photos import (
    MOST_PAIRS,
    difference_hash,
    duplicate_warnings,
    photo_warnings,
)
from dreambooth_trainer.captioning.record import Written

SUBJECT = Subject(identifier="sks", class_noun="coffee mug", images="s3://bucket/mug")


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("a photo of a coffee mug on grass", "a photo of sks coffee mug on grass"),
        ("The Coffee Mug stands by a coffee mug", "sks coffee mug stands by a coffee mug"),
        ("a red cup on a table", "sks coffee mug, a red cup on a table"),
        ("a photo of sks coffee mug", "a photo of sks coffee mug"),
        ("a coffee mug\non\tgrass\x00\x1b[2J", "sks coffee mug on grass 2J"),
        ("a coffee mug\u202e\u200b at night", "sks coffee mug at night"),
        ("<script>alert(1)</script> a coffee mug", "alert(1) sks coffee mug"),
        ("**a** `coffee mug` {{ x }}", "sks coffee mug x"),
        ("\u200b<b></b>", "a photo of sks coffee mug"),
    ],
)
def test_a_caption_is_one_plain_line_about_the_subject(answer: str, caption: str) -> None:
    assert caption_of(answer, SUBJECT) == caption


def test_a_long_answer_is_cut_between_words() -> None:
    caption = caption_of("a coffee mug " + "word " * 200, SUBJECT)
    assert len(caption) <= MAX_CAPTION + len("sks ")
    assert caption.endswith(" word")


def test_the_class_stands_in_the_instructions_and_the_seed_counts_up() -> None:
    image = Image.new("RGB", (64, 64))
    settings = Captioning(system_prompt="Describe the {class}.", temperature=1.5, seed=40)
    request = caption_request(settings, SUBJECT, "0.jpg", image, 2)
    assert request.system.startswith("Describe the coffee mug.")
    assert (request.seed, request.sampling.temperature) == (42, 1.5)


@pytest.mark.parametrize(
    ("found", "warnings"),
    [
        ({}, []),
        ({"subject": False, "subjects": 0}, ["no coffee mug is seen"]),
        ({"subject": False}, ["no coffee mug is seen"]),
        ({"subjects": 0}, ["no coffee mug is seen"]),
        ({"subjects": 2}, ["2 of the class coffee mug are seen"]),
        ({"text": True}, ["text is seen in it"]),
        ({"watermark": True}, ["a watermark is seen"]),
        ({"text": True, "watermark": True}, ["a watermark is seen"]),
        ({"blurred": True}, ["the coffee mug is blurred"]),
        (
            {"subjects": 3, "text": True, "blurred": True},
            [
                "3 of the class coffee mug are seen",
                "text is seen in it",
                "the coffee mug is blurred",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_photo_is_named_with_its_file(
    found: dict[str, bool | int], warnings: list[str]
) -> None:
    fine = {"subject": True, "subjects": 1, "text": False, "watermark": False, "blurred": False}
    check = PhotoCheck.model_validate(fine | found)
    lines = list(photo_warnings("IMG_0\n.jpg", check, "coffee mug"))
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith(f"IMG_0\\n.jpg: {warning}")
        assert "; " in line, "says what to do"


def test_nearly_equal_photos_are_named() -> None:
    photos = {name: Image.new("L", (90, 80)) for name in ("a.jpg", "b.jpg", "c.jpg")}
    for number, (name, photo) in enumerate(photos.items()):
        draw = ImageDraw.Draw(photo)
        for x in range(0, 90, 10):
            shade = (x * 7) % 200 if name != "c.jpg" else (200 - x * 11) % 200
            draw.rectangle((x, 0, x + 10, 80), fill=shade + number)
    hashes = {name: difference_hash(photo) for name, photo in photos.items()}
    assert [line.split(" show")[0] for line in duplicate_warnings(hashes)] == ["a.jpg and b.jpg"]


def test_the_frames_of_a_film_give_few_warnings() -> None:
    frames = {f"{number}-{'x' * 1000}.jpg": np.zeros((8, 8), bool) for number in range(200)}
    lines = list(duplicate_warnings(frames))
    assert len(lines) == MOST_PAIRS + 1
    assert lines[-1].startswith("more than 20 pairs of photos")
    Written(of="sks: duplicates", lines=lines)  # no line is too long for it
