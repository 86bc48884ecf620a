"""Requests in the form of OpenAI's images API, with fields that it lacks."""

import difflib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dreambooth_api.images.generation import AdapterWeight
from dreambooth_api.models.prior import Sampler, SamplingSteps
from dreambooth_api.schema.base import GuidanceScale, Prompt, Seed

SIZE = re.compile(r"(?P<width>[0-9]{2,4})x(?P<height>[0-9]{2,4})")
SMALLEST_SIDE, LARGEST_SIDE = 64, 2048
ALIKE = 0.8
"""How alike two names are, of 1, of which one may be meant for the other."""
MOST_CHECKED = 20
"""Unknown fields that are compared: a body has room for thousands, and others wait meanwhile."""
OTHER_FIELDS = frozenset({"input_fidelity", "moderation", "quality", "style", "user"})
"""Of OpenAI's API, which mean nothing here."""
Format = Literal["png", "jpeg", "webp"]


class ImagesRequest(BaseModel):
    """Body of `POST /v1/images/generations`. Unset settings are those of the result's samples."""

    # Clients send fields that mean nothing here; they are kept for `misspelt`.
    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, allow_inf_nan=False)

    prompt: Prompt
    """What the images show; the subject by its identifier."""

    model: str | None = None
    """A result, see `/v1/models`. Default: the newest."""

    n: Annotated[int, Field(ge=1, le=1000)] = 1
    """Images."""

    size: str | None = None
    """`auto`, or WIDTHxHEIGHT in pixels. Default: the resolution of the training."""

    response_format: Literal["url", "b64_json"] | None = None
    """Default: `b64_json`."""

    output_format: Format = "png"
    """Of the image files."""

    output_compression: Annotated[int, Field(ge=0, le=100)] = 90
    """Quality of JPEG and WebP."""

    background: Literal["auto", "opaque"] | None = None
    """Images have no transparent background."""

    stream: bool | None = None
    """Answer with server-sent events."""

    partial_images: Annotated[int, Field(ge=0, le=50)] | None = None
    """Unfinished images that are sent of each image, when it is streamed."""

    seed: Seed | None = None
    """Of the first image; the next one has the next seed. Default: a random one."""

    steps: SamplingSteps | None = None
    """Sampling steps."""

    guidance_scale: GuidanceScale | None = None
    """Guidance scale."""

    negative_prompt: Annotated[str, Field(max_length=512)] | None = None
    """What guidance steers away from."""

    sampler: Sampler | None = None
    """Sampler."""

    adapter_weight: AdapterWeight = 1.0
    """Multiplies what the adapters change: 0 is the base model."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """In OpenAI's API, null is the default of every field that may be left out."""
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if each is not None}

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        if value is None or value == "auto":
            return None
        match = SIZE.fullmatch(value)
        sides = [int(each) for each in match.groups()] if match else []
        if not sides or not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in sides):
            raise ValueError(
                f"must be auto or WIDTHxHEIGHT with sides of {SMALLEST_SIDE} to {LARGEST_SIDE}"
            )
        return value

    def misspelt(self) -> Iterator[str]:
        """Fields that are ignored, and may have been meant for another one, a line each."""
        unknown = [name for name in self.model_extra or {} if name not in OTHER_FIELDS]
        for name in unknown[:MOST_CHECKED]:
            for known in difflib.get_close_matches(name, type(self).model_fields, 1, ALIKE):
                yield f"{name[:60]}: is no field, and is ignored; did you mean {known}?"

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels; None: those of the training."""
        match = SIZE.fullmatch(self.size) if self.size else None
        return (int(match["width"]), int(match["height"])) if match else None
