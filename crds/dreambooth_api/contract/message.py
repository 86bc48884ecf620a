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
# Ten years: far more than any training takes, and a time that far ahead is still a valid date.
MAX_SECONDS = 10 * 365 * 86_400
# Without 9999, which a conversion to UTC can exceed.
YEARS = range(2000, 9_999)


class Message(BaseModel):
    """Base of the messages: camelCase on the wire, and unknown fields are ignored.

    Unknown fields come from a newer version. Validation raises `ValidationError` (pydantic).
    """

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
    """The text cut to `limit` characters, without control characters but line breaks and tabs."""
    kept = "".join(c for c in text if c in "\n\t" or c.isprintable())
    return kept if len(kept) <= limit else kept[: limit - 3] + "..."


def text(limit: int) -> Any:
    """The type of a text for people: cut to `limit` characters, never refused for its length."""

    def cut(value: Any) -> Any:
        return printable(value, limit) if isinstance(value, str) else value

    # A long message must not make the whole answer unreadable, as a bound on its length would.
    return Annotated[str, BeforeValidator(cut)]


def to_utc_seconds(time: datetime) -> datetime:
    """The time as Kubernetes stores it (meta/v1 Time): in UTC, to the second.

    Raises:
        ValueError: The year is not one of `YEARS`.
    """
    if time.year not in YEARS:
        raise ValueError(f"the year must be from {YEARS[0]} to {YEARS[-1]}")
    return time.astimezone(UTC).replace(microsecond=0)


MAX_PUSH = 512
Step = Annotated[int, Field(ge=0, le=MAX_STEP)]
Rank = Annotated[int, Field(ge=0, le=MAX_RANK)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]
Time = Annotated[AwareDatetime, AfterValidator(to_utc_seconds)]
# No control characters: a URI is printed on terminals, and is the value of a Prometheus label.
Uri = Annotated[
    str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class Checkpoint(Message):
    """A durable checkpoint (status.lastCheckpoint of the job)."""

    step: Step
    """Optimizer step that it resumes from."""
    uri: Uri
    """Its folder."""
    time: Time
    """When it was committed."""


class HubPush(Message):
    """What became of `spec.export.pushToHub` (condition PushedToHub)."""

    repository: text(MAX_PUSH)  # type: ignore[valid-type]
    """As the job names it."""
    problem: text(MAX_PUSH) | None = None  # type: ignore[valid-type]
    """Why the export is not there, and what to do; None: it is."""


class BestCheckpoint(Message):
    """The checkpoint with the best scores (status.best of the job)."""

    step: Step
    """Optimizer step that it was scored at."""
    # A loss of 1e-6 divides with a weight of 10.
    score: Annotated[float, Field(ge=0, le=1e100)]
    """Product of the scores that it was chosen by (spec.evaluation.select)."""
