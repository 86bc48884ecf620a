"""Answers that are valid: what does not validate is asked for once more, then refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from dreambooth_storage import printable
from dreambooth_trainer.captioning.answers import Answer
from dreambooth_trainer.captioning.models.interface import Request, VisionLanguageModel
from dreambooth_trainer.process.errors import BadModelError

AnswerT = TypeVar("AnswerT", bound=Answer)


def ask(
    model: VisionLanguageModel, requests: Sequence[Request], kind: type[AnswerT]
) -> list[AnswerT]:
    """One valid answer for each request.

    Raises:
        BadModelError: An answer is not valid twice; all such requests are named.
        TrainerError: The model cannot answer.
    """
    answers = [_parse(text, kind) for text in model.answer(requests, kind)]
    invalid = [i for i, answer in enumerate(answers) if isinstance(answer, str)]
    # Another seed, as the same one would give the same answer.
    again = [replace(requests[i], seed=requests[i].seed + 1) for i in invalid]
    if again:
        for i, text in zip(invalid, model.answer(again, kind), strict=True):
            answers[i] = _parse(text, kind)
    valid = [answer for answer in answers if not isinstance(answer, str)]
    if len(valid) < len(answers):
        problems = [
            f"{printable(request.name)}: {answer}"
            for request, answer in zip(requests, answers, strict=True)
            if isinstance(answer, str)
        ]
        head = (
            f"spec.captioning: {model.name} gave {len(problems)} answer(s) that are not valid,"
            f" twice; {_remedy(requests)}:"
        )
        raise BadModelError("\n  ".join([head, *problems]))
    return valid


def _remedy(requests: Sequence[Request]) -> str:
    if limit := next((each.max_tokens for each in requests if each.max_tokens), None):
        return f"raise maxTokens ({limit}), or name another model"
    return "name another model, or write the captions yourself"


def _parse(text: str, kind: type[AnswerT]) -> AnswerT | str:
    """The answer, or why it is none."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        # A place may be a name that the model made up.
        return printable(f"{place}: {first['msg']}" if place else first["msg"])[:300]
