"""The termination message of the trainer's container (core/v1 terminationMessagePath).

JSON on one line, so that nothing has to be read out of prose. An image of another origin, or a
container that wrote nothing (FallbackToLogsOnError), leaves plain text: that is the message then.
"""

from typing import Annotated, Self

from pydantic import Field, ValidationError

from dreambooth_api.contract.message import (
    BestCheckpoint,
    Checkpoint,
    HubPush,
    Message,
    Rank,
    Time,
    printable,
    text,
)
from dreambooth_api.contract.version import OLDEST, VERSION, ContractVersion

MAX_BYTES = 4000
"""Kubernetes keeps 4096 bytes of one container, 12 KiB of a pod."""
# Half of a condition's message: room is left for the pod's name and the advice around it.
MAX_MESSAGE = 2048
# Short, as a message of full length has to fit in beside it.
MAX_STOPPED_EARLY = 256


class Termination(Message):
    """Why a container ended, as reported by the rank that decided its exit code."""

    version: ContractVersion = VERSION
    message: text(MAX_BYTES) = ""  # type: ignore[valid-type]
    """What happened and what to do, for people."""
    rank: Rank | None = None
    """The rank that ended first, counted over all pods; None: it does not matter, or is unknown."""
    checkpoint: Checkpoint | None = None
    """The newest durable checkpoint of the attempt."""
    best: BestCheckpoint | None = None
    """The best checkpoint of all evaluations: the one that was exported, at the end of a job."""
    stopped_early: text(MAX_STOPPED_EARLY) | None = None  # type: ignore[valid-type]
    """Why training ended before its last step (spec.evaluation.earlyStopping)."""
    push: HubPush | None = None
    """What became of the push of the export to a hub; None: there was none."""

    def encode(self) -> bytes:
        """JSON of at most `MAX_BYTES` bytes; if it is longer, the end of the message is cut.

        A checkpoint whose URI alone is longer is left out.
        """
        kept, message = self, self.message
        if len(kept._json("...")) > MAX_BYTES:
            kept = self.model_copy(update={"checkpoint": None})
        while len(data := kept._json(message)) > MAX_BYTES:
            # A character takes up to four bytes: cut no more than is certainly too much, and try
            # again.
            excess = len(data) - MAX_BYTES
            message = message[: max(0, len(message) - max(excess // 4, 1) - 3)] + "..."
        return data

    def _json(self, message: str) -> bytes:
        return (
            self.model_copy(update={"message": message}).model_dump_json(exclude_none=True).encode()
        )

    @classmethod
    def decode(cls, data: str) -> Self:
        """Read what `encode` wrote; any other text becomes the message. Never raises an error.

        Of another version of the contract, only the message is taken: it says what is wrong.
        """
        try:
            read = cls.model_validate_json(data.strip())
        except ValidationError:
            read = cls()
        # All fields have defaults: another image's log line in JSON would be read as no message.
        if {"version", "message"} <= read.model_fields_set:
            known = OLDEST <= read.version <= VERSION
            return read if known else cls(message=read.message)
        # Of a log, the end: a traceback's last line names the error.
        return cls(message=printable(data.strip()[-MAX_BYTES:], MAX_BYTES))


class AttemptEnd(Message):
    """How an attempt ended, in the run's folder (`OutputLayout.attempt_end`).

    Written by the rank that failed first, or by rank 0 after the export. An attempt that was killed
    leaves none.
    """

    exit_code: Annotated[int, Field(ge=0, le=255)]
    rank: Rank
    message: text(MAX_BYTES) = ""  # type: ignore[valid-type]
    ended_at: Time
