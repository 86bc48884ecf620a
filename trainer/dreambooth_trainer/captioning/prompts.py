"""Varied prompts for images of a class."""

import logging
import re
from collections.abc import Sequence

from dreambooth_api.models.captioning import Captioning
from dreambooth_trainer.captioning.answers import MAX_PROMPT, MAX_PROMPTS, Prompts
from dreambooth_trainer.captioning.ask import ask
from dreambooth_trainer.captioning.captions import clean, sampling_of
from dreambooth_trainer.captioning.models.interface import Request, Sampling, VisionLanguageModel
from dreambooth_trainer.process.errors import BadModelError

log = logging.getLogger(__name__)

SYSTEM = (
    "You write prompts for a text-to-image model. Each is one short line that names the {class}"
    " once, and puts it into another place, light, style or weather than the others. Do not"
    " describe the {class} itself."
)
EXAMPLES = (
    "a photo of a {class} on a beach at sunset",
    "a {class} on a kitchen table, soft morning light",
    "an oil painting of a {class} in the snow",
)
SAMPLING = Sampling(temperature=0.8, top_p=0.95)
ROUNDS = 4
"""Requests at most; models repeat themselves."""


def write_prompts(
    model: VisionLanguageModel, captioning: Captioning, noun: str, count: int, seed: int
) -> list[str]:
    """Distinct prompts that mention the class noun.

    They are written by instructions of their own: those of `captioning` are for captions. Fewer
    than asked for are logged.

    Args:
        model: Who writes them.
        captioning: Settings of the job.
        noun: The class noun.
        count: How many.
        seed: Of the first request.

    Raises:
        BadModelError: Not one answer mentions the class noun.
        TrainerError: The model cannot answer.
    """
    written: dict[str, str] = {}
    for round_ in range(ROUNDS):
        if missing := count - len(written):
            request = prompts_request(
                captioning, noun, missing, list(written.values()), seed + round_
            )
            [answer] = ask(model, [request], Prompts)
            for prompt in (clean(text, MAX_PROMPT) for text in answer.prompts):
                if re.search(rf"\b{re.escape(noun)}\b", prompt, re.IGNORECASE):
                    written.setdefault(prompt.casefold(), prompt)
    if not written:
        raise BadModelError(
            f"spec.captioning: {model.name} wrote no prompt that mentions {noun!r} in {ROUNDS}"
            " answers; name another model, or write the prompts yourself"
        )
    if len(written) < count:
        log.warning(
            "%s wrote %d different prompts for %s, not %d; raise spec.captioning.temperature, or"
            " write the others yourself",
            *(model.name, len(written), noun, count),
        )
    return list(written.values())[:count]


def prompts_request(
    captioning: Captioning, noun: str, count: int, known: Sequence[str], seed: int
) -> Request:
    """The question for so many prompts other than the known ones."""
    system = [SYSTEM, "Prompts as they should be:", *EXAMPLES]
    text = f"Write {min(count, MAX_PROMPTS)} different prompts for images of a {noun}."
    if known:
        text += "\nOther ones than these:\n" + "\n".join(known)
    return Request(
        name=noun,
        system="\n".join(system).replace("{class}", noun),
        text=text,
        sampling=sampling_of(captioning, SAMPLING),
        seed=seed,
        max_tokens=captioning.max_tokens,
    )
