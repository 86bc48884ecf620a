"""Scores the captioner as the trainer asks it, on drawings that it never saw."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreambooth_api.models.captioning import Captioning
from dreambooth_api.models.subject import Subject
from dreambooth_trainer.captioning.answers import Caption, PhotoCheck, Prompts
from dreambooth_trainer.captioning.ask import ask
from dreambooth_trainer.captioning.captions import caption_request
from dreambooth_trainer.captioning.models.local import LocalModel
from dreambooth_trainer.captioning.photos import check_request
from dreambooth_trainer.captioning.prompts import prompts_request
from tinysd.captioner.lessons import PLAIN
from tinysd.captions import COLOURS, KINDS, Words, place
from tinysd.dataset import DrawingSet


def captions(model: LocalModel, drawings: DrawingSet, system_prompt: str | None) -> list[str]:
    """What the model says about each drawing, with these instructions or the trainer's own."""
    settings = Captioning(system_prompt=system_prompt, temperature=0)
    requests = [
        caption_request(settings, _subject(words), str(i), Image.fromarray(pixels), i)
        for i, (pixels, words) in enumerate(zip(drawings.pixels, drawings.words, strict=True))
    ]
    return [answer.caption for answer in ask(model, requests, Caption)]


def scores(folder: Path, drawings: DrawingSet) -> dict[str, float]:
    """Shares of drawings that are described rightly, with instructions of both kinds."""
    model = LocalModel(folder, "captioner", torch.device("cpu"))
    full = captions(model, drawings, PLAIN)
    own = captions(model, drawings, None)
    rng = np.random.default_rng(0)
    others = [_other(words.kind, rng) for words in drawings.words]
    seen = [_checks(model, drawings, nouns) for nouns in ([w.kind for w in drawings.words], others)]
    prompts = [
        _share_of_class(
            ask(model, [prompts_request(Captioning(), kind, 4, [], seed)], Prompts)[0], kind
        )
        for seed, kind in enumerate(KINDS)
    ]
    return {
        "images": len(drawings.words),
        "class": _share(full, drawings.words, lambda text, words: words.kind in text.split()),
        "colour": _share(full, drawings.words, _names_colour),
        "class-and-colour": _share(
            full,
            drawings.words,
            lambda text, words: words.kind in text.split() and _names_colour(text, words),
        ),
        "place": _share(full, drawings.words, lambda text, words: place(words.backdrop) in text),
        "own-instructions-class-and-place": _share(
            own,
            drawings.words,
            lambda text, words: words.kind in text.split() and place(words.backdrop) in text,
        ),
        "own-instructions-without-colour": _share(
            own,
            drawings.words,
            lambda text, _: not set(text.split(" on ")[0].split()) & set(COLOURS),
        ),
        "check-sees-the-subject": float(np.mean([check.subject for check in seen[0]])),
        "check-sees-another-object": float(np.mean([not check.subject for check in seen[1]])),
        "prompts-of-the-class": float(np.mean(prompts)),
    }


def _share_of_class(answer: Prompts, kind: str) -> float:
    return float(np.mean([kind in text.split() for text in answer.prompts]))


def _subject(words: Words, noun: str | None = None) -> Subject:
    return Subject(identifier="sks", class_noun=noun or words.kind, images="s3://bucket/images")


def _checks(model: LocalModel, drawings: DrawingSet, nouns: Sequence[str]) -> list[PhotoCheck]:
    rows = enumerate(zip(drawings.pixels, drawings.words, nouns, strict=True))
    requests = [
        check_request(Captioning(), _subject(words, noun), str(i), Image.fromarray(pixels), i)
        for i, (pixels, words, noun) in rows
    ]
    return ask(model, requests, PhotoCheck)


def _other(kind: str, rng: np.random.Generator) -> str:
    return str(rng.choice([each for each in KINDS if each != kind]))


def _names_colour(text: str, words: Words) -> bool:
    """The object's colour, not that of the background."""
    return f" {words.colour} " in text.partition(" on ")[0] + " "


def _share(
    texts: Sequence[str], all_words: Sequence[Words], is_right: Callable[[str, Words], bool]
) -> float:
    return float(
        np.mean([is_right(text, words) for text, words in zip(texts, all_words, strict=True)])
    )
