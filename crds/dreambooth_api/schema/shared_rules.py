"""Rules that several parts of a job share: a model takes one by a name of its own."""

from collections.abc import Sequence
from typing import Protocol

from dreambooth_api.schema.names import has_ending, has_ending_cel
from dreambooth_api.schema.rules import rule

MAX_PROMPTS = 32
"""Prompts that a job names, and those that a model writes for it, together."""


class HasSource(Protocol):
    """A part that names files by a source."""

    @property
    def source(self) -> str: ...  # noqa: D102


class HasRevision(HasSource, Protocol):
    """A part that names files by a source, and perhaps its revision."""

    @property
    def revision(self) -> str | None: ...  # noqa: D102


class HasPrompts(Protocol):
    """A part with prompts, some of which may be written by a model."""

    @property
    def prompts(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def auto_prompts(self) -> int | None: ...  # noqa: D102


@rule(
    "source",
    f"!({has_ending_cel('self.source', '.gguf')})",
    "is a GGUF file, quantized for inference, which cannot be trained; name one with the original"
    " weights",
)
def is_not_of_inference(self: HasSource) -> bool:
    """GGUF is for other programs."""
    return not has_ending(self.source, ".gguf")


@rule(
    "revision",
    "!has(self.revision) || self.source.startsWith('hf://')",
    "has no effect without an hf:// source; remove it",
)
def revision_is_for_the_hub(self: HasRevision) -> bool:
    """Only the hub has revisions."""
    return self.revision is None or self.source.startswith("hf://")


@rule(
    "autoPrompts",
    f"!has(self.autoPrompts) || size(self.prompts) + self.autoPrompts <= {MAX_PROMPTS}",
    f"prompts and autoPrompts may be {MAX_PROMPTS} together; lower it",
)
def prompts_are_bounded(self: HasPrompts) -> bool:
    """Prompts are embedded together and kept."""
    return len(self.prompts) + (self.auto_prompts or 0) <= MAX_PROMPTS
