"""The folder of a run: paths below `<output>/<namespace>/<name>/<uid>/`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

EvaluationProtocol = Literal["dreambooth"]
"""Protocols that a result can be scored by; each has a folder of its own."""


@dataclass(frozen=True)
class OutputLayout:
    """The URIs of one run. The constants are relative to `root`."""

    root: str
    """Folder of the run, without a slash at its end."""

    ATTEMPTS: ClassVar = "attempts"
    CAPTIONS: ClassVar = "captions.json"
    CHECKPOINTS: ClassVar = "checkpoints"
    EXPORT: ClassVar = "export"
    EXPORT_LAST: ClassVar = "export-last"
    SELECTION: ClassVar = "selection"
    LATENTS: ClassVar = "latents"
    HISTORY: ClassVar = "history.jsonl"
    REPORT: ClassVar = "report.html"
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
        """The layout of a job's run below `output` (spec.output of the job).

        A job that no API server has stored has no uid; its folder is named `local`.
        """
        # The uid keeps the runs of a job that was deleted and created again apart.
        return cls("/".join([output.rstrip("/"), namespace, name, uid or "local"]))

    def path(self, relative: str) -> str:
        """The URI of a path below the run's folder."""
        return f"{self.root}/{relative}"

    @property
    def captions(self) -> str:
        """File of what the vision-language model answered (spec.captioning)."""
        return self.path(self.CAPTIONS)

    @property
    def checkpoints(self) -> str:
        """Folder of the durable states that attempts resume from (spec.checkpoints)."""
        return self.path(self.CHECKPOINTS)

    @property
    def export(self) -> str:
        """Folder of the exported model."""
        return self.path(self.EXPORT)

    @property
    def export_last(self) -> str:
        """Folder of the model of the last step, where another one is the best and in `export`."""
        return self.path(self.EXPORT_LAST)

    @property
    def selection(self) -> str:
        """Folder of the evaluations that the best checkpoint is chosen by (spec.evaluation)."""
        return self.path(self.SELECTION)

    def selection_at(self, step: int) -> str:
        """The evaluation of the model after an optimizer step, which is written once."""
        return f"{self.selection}/step-{step:08d}.json"

    @property
    def history(self) -> str:
        """Losses, learning rate and time of every step, as one JSON object per line."""
        return self.path(self.HISTORY)

    @property
    def latents(self) -> str:
        """Folder of the encoded images, which later attempts read instead of encoding again."""
        return self.path(self.LATENTS)

    @property
    def report(self) -> str:
        """The page that shows the run: one HTML file."""
        return self.path(self.REPORT)

    def attempt_end(self, number: int) -> str:
        """How an attempt ended, as far as it could say so itself."""
        return self.path(f"{self.ATTEMPTS}/{number:04d}.json")

    @property
    def run_record(self) -> str:
        """The resolved job, versions, seeds, hashes and attempts."""
        return self.path(self.RUN_RECORD)

    @property
    def scores(self) -> str:
        """File of the scores of the final model (spec.evaluation)."""
        return self.path(self.SCORES)

    def scores_at(self, step: int) -> str:
        """File of the scores of the model after an optimizer step (spec.evaluation)."""
        # Eight digits, as in `MAX_STEP`: names sort by step.
        return self.path(f"scores/step-{step:08d}.json")

    def evaluation(self, protocol: EvaluationProtocol) -> str:
        """Folder of an evaluation of the result by a protocol: its images and scores."""
        return self.path(f"evaluation/{protocol}")

    def protocol_scores(self, protocol: EvaluationProtocol) -> str:
        """File of the scores of such an evaluation."""
        return f"{self.evaluation(protocol)}/scores.json"

    @property
    def base_vectors(self) -> str:
        """File of the encoded images of the base model, which later scores are compared with."""
        return self.path("scores/base.safetensors")

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's event files (spec.tracking.tensorboard)."""
        return self.path(self.TENSORBOARD)

    @property
    def wandb(self) -> str:
        """Folder of an offline Weights & Biases run (spec.tracking.wandb.mode)."""
        return self.path(self.WANDB)

    @property
    def before_after(self) -> str:
        """Image of samples before and after training, side by side (spec.samples)."""
        return self.path(self.BEFORE_AFTER)

    def samples(self, step: int) -> str:
        """Folder of the samples of an optimizer step (spec.samples.every)."""
        return self.path(f"{self.SAMPLES}/step-{step:08d}")

    def grid(self, step: int) -> str:
        """Contact sheet of all samples of an optimizer step (spec.samples.every)."""
        return f"{self.samples(step)}/{self.GRID}"

    def sample_settings(self, step: int) -> str:
        """What the samples of an optimizer step were made with (spec.samples), as JSON."""
        return f"{self.samples(step)}/settings.json"
