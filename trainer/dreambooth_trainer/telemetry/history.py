"""The measurements of each optimizer step, for history.jsonl: one JSON object per line."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class StepReport:
    """One optimizer step; losses are over all ranks, times in seconds are of this rank."""

    step: int
    """From 1, over all attempts."""
    loss: float
    """Subject loss plus weighted prior loss, mean over the global batch."""
    subject_loss: float
    prior_loss: float
    """Before its weight; 0 where the job has no prior loss."""
    learning_rate: float
    """Of the denoiser."""
    seconds: float
    data_wait_seconds: float
    """Part of `seconds` spent waiting for data."""
    gradient_norm: float = 0.0
    """Before it is clipped; 0 with fp16, whose gradients are scaled."""
    text_learning_rate: float | None = None
    """Of the text encoders, where they are trained."""

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates by the names that trackers show."""
        text = self.text_learning_rate
        return {
            "learning_rate": self.learning_rate,
            **({"learning_rate/text_encoder": text} if text is not None else {}),
        }


class History:
    """The reports of all steps, earlier attempts included."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, report: StepReport) -> None:
        """Add the report of the next step."""
        self._lines.append(json.dumps(asdict(report)))

    def resume(self, text: str, step: int) -> None:
        """Continue the lines of earlier attempts (the text of history.jsonl) after `step`.

        Raises:
            ValueError: a line is not JSON.
        """
        # Later lines are of steps that were not saved: they are trained, and reported, again.
        self._lines = [line for line in text.splitlines() if json.loads(line)["step"] <= step]

    def text(self) -> str:
        """The content of history.jsonl."""
        return "".join(f"{line}\n" for line in self._lines)
