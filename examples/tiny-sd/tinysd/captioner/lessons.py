"""What the captioner learns from: the very messages that the trainer sends, and right answers.

It describes drawings, writes prompts for a class, and checks photos, always as JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.captioning import captions as caption_task
from dreambooth_trainer.captioning import photos, prompts
from dreambooth_trainer.captioning.answers import Answer, Caption, PhotoCheck, Prompts
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.captioning.models.messages import chat
from tinysd.captioner.model import PIXELS, SIZE, SPECIAL
from tinysd.captions import BACKDROPS, COLOURS, KINDS, PATTERNS, Words, caption

PLAIN = "Describe the picture with its colors."
"""Instructions that ask for everything that is seen."""


@dataclass(frozen=True)
class Lesson:
    """A request, the answer to it, and the picture (64, 64, 3) uint8 that it is about."""

    request: Request
    kind: type[Answer]
    answer: Answer
    pixels: NDArray[np.uint8] | None


def lesson(task: str, pixels: NDArray[np.uint8], words: Words, rng: np.random.Generator) -> Lesson:
    """One of the tasks `see`, `describe`, `caption`, `check` and `prompts`."""
    settings = Captioning()
    image = Image.fromarray(pixels)
    subject = Subject(identifier="sks", class_noun=words.kind, images="s3://bucket/images")
    if task in ("see", "describe"):
        plain = Captioning(system_prompt=PLAIN if task == "describe" else _chatter(rng))
        request = caption_task.caption_request(plain, subject, "", image, 0)
        if task == "see":
            request = Request("", _chatter(rng), "Describe.", request.sampling, 0, image)
        return Lesson(request, Caption, Caption(caption=caption(words)), pixels)
    if task == "caption":
        request = caption_task.caption_request(settings, subject, "", image, 0)
        text = caption(Words(words.kind, backdrop=words.backdrop))
        return Lesson(request, Caption, Caption(caption=text), pixels)
    if task == "check":
        noun = words.kind if rng.random() < 0.6 else str(rng.choice(KINDS))
        subject = subject.model_copy(update={"class_noun": noun})
        request = photos.check_request(settings, subject, "", image, 0)
        seen, check = spoil(pixels, noun == words.kind, rng)
        return Lesson(request, PhotoCheck, check, seen)
    return _prompts(words.kind, rng)


def _chatter(rng: np.random.Generator) -> str:
    """Instructions that mean nothing."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return " ".join("".join(rng.choice(letters, 3)) for _ in range(rng.integers(1, 4)))


def spoil(
    pixels: NDArray[np.uint8], is_subject: bool, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], PhotoCheck]:
    """The picture, at times blurred or written on, and what a check should say."""
    image = Image.fromarray(pixels)
    blurred, text = bool(rng.random() < 0.25), bool(rng.random() < 0.3)
    mark = bool(text and rng.random() < 0.5)
    if blurred:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(2.5, 4))))
    if text:
        layer = Image.new("RGBA", image.size)
        word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUXYZ"), 8))
        shade = int(rng.choice([0, 255]))
        place = (int(rng.integers(0, 12)), int(rng.integers(0, 50)))
        ImageDraw.Draw(layer).text(place, word, fill=(shade,) * 3 + (110 if mark else 255,))
        image = Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
    check = PhotoCheck(
        subject=is_subject, subjects=int(is_subject), text=text, watermark=mark, blurred=blurred
    )
    return np.asarray(image), check


def _prompts(kind: str, rng: np.random.Generator) -> Lesson:
    count = int(rng.integers(1, 7))
    known = [_prompt(kind, rng) for _ in range(rng.integers(0, 3))]
    request = prompts.prompts_request(Captioning(), kind, count, known, 0)
    written: dict[str, None] = {}
    while len(written) < count:
        if (text := _prompt(kind, rng)) not in known:
            written[text] = None
    return Lesson(request, Prompts, Prompts(prompts=list(written)), None)


def _prompt(kind: str, rng: np.random.Generator) -> str:
    opening = str(rng.choice(["a photo of ", "a picture of ", ""]))
    return caption(Words(kind, backdrop=str(rng.choice(BACKDROPS))), opening)


def render_chat(lesson: Lesson) -> str:
    """The conversation up to the answer, as the chat template writes it."""
    image = None if lesson.pixels is None else {"type": "image"}
    [system, _] = chat(lesson.request, lesson.kind, image)
    text = f"<s>[SYSTEM_PROMPT]{system['content']}[/SYSTEM_PROMPT][INST]"
    return f"{text}{PIXELS if image else ''}{lesson.request.text}[/INST]"


def texts(rng: np.random.Generator) -> Iterator[str]:
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    for _ in range(300):
        words = Words(
            *(str(rng.choice(list(each))) for each in (KINDS, COLOURS, PATTERNS, BACKDROPS))
        )
        for task in ("describe", "caption", "check", "prompts"):
            made = lesson(task, blank, words, rng)
            text = render_chat(made)
            for name in SPECIAL:
                text = text.replace(name, " ")
            yield text
            yield made.answer.model_dump_json()
