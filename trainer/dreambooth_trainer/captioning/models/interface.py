"""The interface of a vision-language model, whether it runs here or behind an endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from dreambooth_trainer.captioning.answers import Answer


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the likeliest token each time.
        top_p: The likeliest tokens of this share in all are left to choose from.
        top_k: So many of the likeliest tokens are left to choose from; None: all.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int | None = None


@dataclass(frozen=True)
class Request:
    """One question.

    Args:
        name: What is asked about, for messages: a file's name or a class noun.
        system: The system prompt.
        text: The question.
        sampling: How tokens are chosen.
        seed: Of the random numbers that choose the answer. It depends on the request alone, so
            that the answer is the same whatever else is asked, and on which rank.
        image: RGB, which the question is about, if any.
        max_tokens: Of the answer; None: as many as it may need.
    """

    name: str
    system: str
    text: str
    sampling: Sampling
    seed: int
    image: Image.Image | None = None
    max_tokens: int | None = None


class VisionLanguageModel(Protocol):
    """Answers questions about images in JSON."""

    name: str
    """As the job names it."""

    def answer(self, requests: Sequence[Request], kind: type[Answer]) -> list[str]:
        """The answers' JSON, one for each request, not validated.

        Raises:
            TrainerError: The model cannot answer.
        """

    def close(self) -> None:
        """Free the device's memory, or close the connections; it answers nothing more."""
