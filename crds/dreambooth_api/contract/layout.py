"""The folder of a run: paths below `<output>/<namespace>/<name>/<uid>/`."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class OutputLayout:
    """The URIs of one run. The constants are relative to `root`."""

    root: str
    """Folder of the run, without a slash at its end."""

    CHECKPOINTS: ClassVar = "checkpoints"
    EXPORT: ClassVar = "export"
    HISTORY: ClassVar = "history.jsonl"
    RUN_RECORD: ClassVar = "run.json"
    SAMPLES: ClassVar = "samples"
    SCORES: ClassVar = "scores.json"
    TENSORBOARD: ClassVar = "tensorboard"
    WANDB: ClassVar = "wandb"
    BEFORE_AFTER: ClassVar = "samples/before-after.png"
    GRID: ClassVar = "grid.png"
    """Name of the contact sheet in the samples of a step."""

    @classmethod
    def of(cls, output: str, namespace: str, name: str, uid: str | None) -> "OutputLayout":
        """The layout of a job's run; a job that no API server has stored has the uid `local`."""
        return cls("/".join([output.rstrip("/"), namespace, name, uid or "local"]))

    def path(self, relative: str) -> str:
        """The URI of a path below the run's folder."""
        return f"{self.root}/{relative}"

    @property
    def checkpoints(self) -> str:
        """Folder of the durable states."""
        return self.path(self.CHECKPOINTS)

    @property
    def export(self) -> str:
        """Folder of the exported model."""
        return self.path(self.EXPORT)

    @property
    def history(self) -> str:
        """Losses, learning rate and time of every step, one JSON object a line."""
        return self.path(self.HISTORY)

    @property
    def run_record(self) -> str:
        """The resolved job, versions, seeds, hashes and attempts."""
        return self.path(self.RUN_RECORD)

    @property
    def scores(self) -> str:
        """Scores of the result."""
        return self.path(self.SCORES)

    def scores_at(self, step: int) -> str:
        """Scores of the model after an optimizer step."""
        return self.path(f"scores/step-{step:08d}.json")

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's event files."""
        return self.path(self.TENSORBOARD)

    @property
    def wandb(self) -> str:
        """Folder of the files of an offline Weights & Biases run."""
        return self.path(self.WANDB)

    @property
    def before_after(self) -> str:
        """Samples before and after training, side by side."""
        return self.path(self.BEFORE_AFTER)

    def samples(self, step: int) -> str:
        """Folder of the samples of an optimizer step."""
        return self.path(f"{self.SAMPLES}/step-{step:08d}")

    def grid(self, step: int) -> str:
        """Contact sheet of the samples of an optimizer step."""
        return f"{self.samples(step)}/{self.GRID}"
