"""The base of the messages that cross between trainer and operator.

Nothing in a message is trusted: any pod with the job's labels can answer. Numbers out of range are
refused; texts are cut, and lose control characters, which a terminal would obey.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

MAX_STEP = 10_000_000
MAX_RANK = 65_535
MAX_SECONDS = 10 * 365 * 86_400
YEARS = range(2000, 9_999)


class Message(BaseModel):
    """camelCase on the wire; unknown fields, of a newer version, are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def printable(text: str, limit: int) -> str:
    """The text without control characters but line breaks and tabs, and at most `limit` long."""
    kept = "".join(c for c in text if c in "\n\t" or c.isprintable())
    return kept if len(kept) <= limit else kept[: limit - 3] + "..."


def text(limit: int) -> Any:
    """The type of a text for people that is cut at `limit` characters."""

    def cut(value: Any) -> Any:
        return printable(value, limit) if isinstance(value, str) else value

    return Annotated[str, BeforeValidator(cut)]


def to_utc_seconds(time: datetime) -> datetime:
    """The time as Kubernetes stores it: in UTC, to the second; raises `ValueError` for others."""
    if time.year not in YEARS:
        raise ValueError(f"the year must be from {YEARS[0]} to {YEARS[-1]}")
    return time.astimezone(UTC).replace(microsecond=0)


Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
Rank = Annotated[int, Field(ge=0, le=MAX_RANK)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Time = Annotated[AwareDatetime, AfterValidator(to_utc_seconds)]
Uri = Annotated[
    str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class Checkpoint(Message):
    """A durable checkpoint."""

    step: Step
    """Optimizer step that it resumes from."""
    uri: Uri
    """Its folder."""
    time: Time
    """When it was committed."""
