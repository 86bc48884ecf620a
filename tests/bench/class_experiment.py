"""What keeps the class best: one job for each way, method, subject and seed, and a table of them.

    python -m tests.bench.quality OUTPUT [--methods lora full] [--subjects ...] [--seeds 0 1] ...

A run that has ended is not repeated, and one that was interrupted goes on from its checkpoint, so
the command can be stopped and started again. OUTPUT then holds `table.md`, a folder for each run,
and a sheet of the class before and after for each subject and method.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image

from dreambooth_api.contract.scores import ScoreName, Scores
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.evaluation.encoder_config import EncoderSource, read_encoder
from dreambooth_trainer.evaluation.encoders import ImageEncoder
from dreambooth_trainer.evaluation.estimates import fidelity
from dreambooth_trainer.evaluation.grid import before_after
from tests.trainer.ranks import run_folder, run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP, DINO = (EXAMPLES / "tiny-sd" / name for name in ("clip", "dino"))
SUBJECTS = {
    "smiling-mug": "mug",
    "zigzag-house": "house",
    "banded-fish": "fish",
    "smiling-star": "star",
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "learningRate": 1e-4, "steps": 800},
    "lora": {"method": "lora", "lora": {"rank": 16}, "learningRate": 2e-3, "steps": 600},
}
PRIORS: dict[str, dict[str, Any]] = {
    "none": {"enabled": False},
    "noise": {"target": "noise", "emptyPromptFraction": 0},
    "noise, half empty": {"target": "noise", "emptyPromptFraction": 0.5},
    "prediction": {"target": "prediction", "emptyPromptFraction": 0},
    "prediction, half empty": {"target": "prediction", "emptyPromptFraction": 0.5},
    "prediction, half empty, 8 images": {
        "target": "prediction", "emptyPromptFraction": 0.5, "count": 8
    },
    "prediction, half empty, no images": {
        "target": "prediction", "emptyPromptFraction": 0.5, "count": 0
    },
}  # fmt: skip
DIGITS = {"subject": 3, "prompt": 3, "fidelity": 3, "pixels": 1}
"""Columns of the table, with their number of digits."""
CLASS_SAMPLES = 8
TIMEOUT = 3600.0


@dataclass(frozen=True)
class Run:
    """One cell of the experiment."""

    model: str
    method: str
    prior: str
    subject: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        prior = self.prior.replace(", ", "-").replace(" ", "-")
        return f"{self.model}-{self.method}-{self.subject}-{self.seed}-{prior}"

    def job(self, output: Path, steps: int | None) -> dict[str, Any]:
        """The job, as `examples/quickstart.yaml` on this machine."""
        noun = SUBJECTS[self.subject]
        images = f"file://{EXAMPLES}/subjects/{self.subject}"
        training = METHODS[self.method] | ({"steps": steps} if steps else {})
        return {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "quality", "namespace": "default", "uid": self.name},
            "spec": {
                "model": {"source": str(EXAMPLES / self.model / "model")},
                "subjects": [
                    {
                        "identifier": "sks",
                        "classNoun": noun,
                        "images": images,
                        "evaluationImages": f"{images}/held-out",
                    }
                ],
                "output": f"file://{output}",
                "prior": {"count": 64, "guidanceScale": 4.0, **PRIORS[self.prior]},
                "training": {
                    "globalBatch": 4,
                    "resolution": 64,
                    "flip": False,
                    "precision": "fp32",
                    "seed": self.seed,
                    **training,
                },
                "samples": {
                    "prompts": [f"a photo of sks {noun}", f"a photo of a {noun}"],
                    "count": CLASS_SAMPLES,
                    "guidanceScale": 4.0,
                },
                "evaluation": {"encoders": {"image": str(DINO), "text": str(CLIP)}},
                "checkpoints": {"every": 200, "keep": 1},
                "runtime": {"gpusPerNode": 0},
            },
        }


@dataclass(frozen=True)
class Result:
    """What a run has reached."""

    subject: float
    """Mean cosine of generated and real images of the subject, over that among real ones."""
    prompt: float
    """Similarity to the prompts after training, over that before."""
    fidelity: float
    """How much class images are still those that the base model makes from the same seeds."""
    pixels: float
    """Mean absolute difference of these images, of 255."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", default=["tiny-sd"])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--priors", nargs="+", default=[*PRIORS], choices=PRIORS)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, help="instead of each method's own number")
    options = parser.parse_args(argv)
    output = options.output.resolve()
    cells = itertools.product(
        options.models, options.methods, options.seeds, options.subjects, options.priors
    )
    results: dict[Run, Result] = {}
    for model, method, seed, subject, prior in cells:
        run = Run(model, method, prior, subject, seed)
        results[run] = finish(run, output, options.steps)
        print(run.name, results[run], flush=True)
        (output / "table.md").write_text("\n".join(table(results)) + "\n")
    draw_sheets(results, output, options.steps)


def finish(run: Run, output: Path, steps: int | None) -> Result:
    """The run's result; it is trained unless that was done before."""
    job = run.job(output, steps)
    folder = run_folder(job)
    scores = folder / "scores.json"
    if not scores.exists():
        attempt = len(list((output / "logs" / run.name).glob("attempt-*")))
        logs = output / "logs" / run.name / f"attempt-{attempt}"
        ended = run_ranks(job, logs, attempt=attempt, timeout=TIMEOUT)
        if set(ended.codes) != {0}:
            raise RuntimeError(f"{run.name}: exit codes {ended.codes}\n" + "\n".join(ended.logs))
    values = Scores.decode(scores.read_bytes()).subjects[0].scores
    prompt = values[ScoreName.PROMPT_SIMILARITY]
    assert prompt.trained
    assert prompt.base
    last = job["spec"]["training"]["steps"]
    before, after = (class_samples(job, step) for step in (0, last))
    kept = fidelity(_encode(before), _encode(after))
    assert kept
    old, new = (
        np.stack([np.asarray(each, np.float32) for each in images]) for images in (before, after)
    )
    return Result(
        subject=_similarity(run.subject, class_samples(job, last, prompt=0)),
        prompt=prompt.trained.value / prompt.base.value,
        fidelity=kept.value,
        pixels=float(np.abs(new - old).mean()),
    )


def _similarity(subject: str, generated: Sequence[Image.Image]) -> float:
    """Mean cosine to real images that were not trained on, over that of those among each other."""
    files = sorted((EXAMPLES / "subjects" / subject / "held-out").glob("*.png"))
    real = _encode([Image.open(file).convert("RGB") for file in files])
    others = ~torch.eye(len(real), dtype=torch.bool)
    return float((_encode(generated) @ real.T).mean() / (real @ real.T)[others].mean())


def _encode(images: Sequence[Image.Image]) -> torch.Tensor:
    """Unit vectors of DINO, [N, D]."""
    return _encoder().images(images)


@cache
def _encoder() -> ImageEncoder:
    source = EncoderSource(str(DINO), "spec.evaluation.encoders.image", reads_text=False)
    found = read_encoder(source, Storage(StorageSettings()))
    return ImageEncoder(DINO, found, source, torch.device("cpu"))


def class_samples(job: dict[str, Any], step: int, prompt: int = 1) -> list[Image.Image]:
    """Sample images of the class (prompt 1) or of the subject (prompt 0) at a step."""
    folder = run_folder(job) / "samples" / f"step-{step:08d}"
    return [
        Image.open(folder / f"{prompt}-{index}.png").convert("RGB")
        for index in range(CLASS_SAMPLES)
    ]


def table(results: dict[Run, Result]) -> Iterator[str]:
    """Means over subjects and seeds, and their range, by model, method and way, in Markdown."""
    yield f"| model | method | class half | runs | {' | '.join(DIGITS)} |"
    yield "|---" * (4 + len(DIGITS)) + "|"
    for model, method, prior in dict.fromkeys((r.model, r.method, r.prior) for r in results):
        group = [
            result
            for run, result in results.items()
            if (run.model, run.method, run.prior) == (model, method, prior)
        ]
        columns = [
            _mean([getattr(result, name) for result in group], digits)
            for name, digits in DIGITS.items()
        ]
        yield f"| {model} | {method} | {prior} | {len(group)} | {' | '.join(columns)} |"


def _mean(values: Sequence[float], digits: int) -> str:
    shown = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return shown
    return f"{shown} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def draw_sheets(results: dict[Run, Result], output: Path, steps: int | None) -> None:
    """A JPEG for each model, method, subject and seed: subject and class, before and after."""
    of_sheet: dict[str, list[Run]] = {}
    for run in results:
        sheet = f"{run.model}-{run.method}-{run.subject}-{run.seed}"
        of_sheet.setdefault(sheet, []).append(run)
    for name, runs in of_sheet.items():
        before, after, labels = [], [], []
        for run in runs:
            job = run.job(output, steps)
            last = job["spec"]["training"]["steps"]
            for prompt in (0, 1):
                before.append(class_samples(job, 0, prompt)[:4])
                after.append(class_samples(job, last, prompt)[:4])
                labels.append(f"{run.prior}: {job['spec']['samples']['prompts'][prompt]}")
        before_after(before, after, labels).convert("RGB").save(output / f"{name}.jpg", quality=85)
