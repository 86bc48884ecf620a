"""What a vision-language model is asked for: one model of an answer for each task.

All lengths are bounded, so that a schema can be satisfied within a known number of tokens and an
answer never ends in the middle.
"""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

MAX_CAPTION = 300
"""Characters; the text encoders that read captions take 77 to 512 tokens."""
MAX_PROMPT = 200
MAX_PROMPTS = 16
"""Prompts of one answer; more are asked for in several requests."""


class Answer(BaseModel):
    """A JSON object that the model has to write."""

    model_config = ConfigDict(extra="forbid")

    example: ClassVar[str]
    """How an answer looks, for models that nothing constrains."""
    max_characters: ClassVar[int]
    """Of the longest answer, where no character is escaped."""


class Caption(Answer):
    """What an image shows."""

    example = '{"caption": "..."}'
    max_characters = MAX_CAPTION + 20

    caption: Annotated[str, Field(min_length=1, max_length=MAX_CAPTION)]


class Prompts(Answer):
    """Prompts for images."""

    example = '{"prompts": ["...", "..."]}'
    max_characters = MAX_PROMPTS * (MAX_PROMPT + 4) + 20

    prompts: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]],
        Field(min_length=1, max_length=MAX_PROMPTS),
    ]


class PhotoCheck(Answer):
    """What may be wrong with a photo of the subject."""

    example = (
        '{"subject": true, "subjects": 1, "text": false, "watermark": false, "blurred": false}'
    )
    max_characters = 100

    subject: bool
    """The class of the subject is in the photo."""
    subjects: Annotated[int, Field(ge=0, le=9)]
    """How many of this class are in it."""
    text: bool
    watermark: bool
    blurred: bool
