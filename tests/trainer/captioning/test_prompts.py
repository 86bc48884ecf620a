"""Prompts of a model: distinct, about the class, and never silently fewer than asked for."""

import json
import logging
from collections.abc import Sequence

import pytest

from dreambooth_api.models.captioning import Captioning
from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request
from dreambooth_trainer.captioning.prompts import write_prompts
from dreambooth_trainer.process.errors import BadModelError


class Writer:
    """Gives the next list of prompts to each question; the last one is repeated."""

    name = "writer"

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    def answer(self, requests: Sequence[Request], kind: type[Answer]) -> list[str]:
        """The next answer, whatever is asked."""
        left = self.answers
        return [json.dumps({"prompts": left.pop(0) if len(left) > 1 else left[0]})]

    def close(self) -> None:
        """It holds nothing."""


def test_what_is_missing_is_asked_for_again() -> None:
    writer = Writer(["a mug on grass", "A mug on grass", "a cup"], ["a mug in snow"])
    assert write_prompts(writer, Captioning(), "mug", 2, 0) == ["a mug on grass", "a mug in snow"]


def test_fewer_than_asked_for_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert write_prompts(Writer(["a mug"]), Captioning(), "mug", 3, 0) == ["a mug"]
    assert (
        "writer wrote 1 different prompts for mug, not 3; raise spec.captioning.temperature"
        in caplog.text
    )


def test_none_at_all_is_an_error() -> None:
    with pytest.raises(BadModelError, match="writer wrote no prompt that mentions 'mug'"):
        write_prompts(Writer(["a cup"]), Captioning(), "mug", 3, 0)
