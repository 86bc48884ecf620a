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
from functools import cache, reduce
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.evaluation.encoder_config import EncoderSource, read_encoder
from dreambooth_trainer.evaluation.encoders import ImageEncoder, TextEncoder
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
PLACES = ("on grass", "on the beach", "in the snow", "on a blue background")
"""Where prompts put the subject, all in words that the small models know."""
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny-sd": {
        "full": {"method": "full", "learningRate": 1e-4, "steps": 800},
        "lora": {"method": "lora", "lora": {"rank": 16}, "learningRate": 2e-3, "steps": 600},
    },
    "tiny-flow": {
        "full": {"method": "full", "learningRate": 1e-4, "steps": 400},
        "lora": {"method": "lora", "lora": {"rank": 16}, "learningRate": 1e-3, "steps": 400},
    },
}
GUIDANCE = {"tiny-sd": 4.0, "tiny-flow": 3.0}
"""Each model's best, by its pipeline's own count."""
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
DIGITS = {"subject": 3, "prompt": 3, "places": 3, "fidelity": 3, "pixels": 1}
"""Columns of the table, with their number of digits."""
COUNT = 8
"""Images of each prompt."""
TIMEOUT = 3600.0


@dataclass(frozen=True)
class Run:
    """One cell of the experiment."""

    model: str
    method: str
    prior: str
    subject: str
    seed: int
    settings: tuple[str, ...] = ()
    """Fields of the spec as `a.b=value`, over those of the method."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        prior = self.prior.replace(", ", "-").replace(" ", "-")
        return f"{self.model}-{self.method}-{self.subject}-{self.seed}-{prior}"

    def job(self, output: Path) -> dict[str, Any]:
        """The job, as `examples/quickstart.yaml` on this machine."""
        job = self._job(output)
        spec = job["spec"]
        for setting in self.settings:
            path, _, value = setting.partition("=")
            *parents, name = path.split(".")
            part = reduce(lambda part, parent: part.setdefault(parent, {}), parents, spec)
            part[name] = yaml.safe_load(value)
        spec["samples"]["every"] = spec["training"]["steps"] // 2
        return job

    def _job(self, output: Path) -> dict[str, Any]:
        noun = SUBJECTS[self.subject]
        images = f"file://{EXAMPLES}/subjects/{self.subject}"
        guidance = GUIDANCE[self.model]
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
                "output": "/".join([f"file://{output}", *self.settings]),
                "prior": {"count": 64, "guidanceScale": guidance, **PRIORS[self.prior]},
                "training": {
                    "globalBatch": 4,
                    "resolution": 64,
                    "flip": False,
                    "precision": "fp32",
                    "seed": self.seed,
                    **METHODS[self.model][self.method],
                },
                "samples": {
                    "prompts": [
                        f"a photo of sks {noun}",
                        f"a photo of a {noun}",
                        *(f"a photo of sks {noun} {place}" for place in PLACES),
                    ],
                    "count": COUNT,
                    "steps": 20,
                    "guidanceScale": guidance,
                },
                "checkpoints": {"every": 200, "keep": 1},
                "runtime": {"gpusPerNode": 0},
            },
        }


@dataclass(frozen=True)
class Result:
    """What a run has reached after some of its steps."""

    subject: float
    """Mean similarity of generated to real images of the subject: 0, that of the base model's; 1,
    that of real images among each other."""
    prompt: float
    """Similarity of images of the subject in some place to their prompts, over that before."""
    places: float
    """Share of them whose place is recognized, over that before."""
    fidelity: float
    """How much class images are still those that the base model makes from the same seeds."""
    pixels: float
    """Mean absolute difference of these images, of 255."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--models", nargs="+", default=["tiny-sd"], choices=METHODS)
    parser.add_argument("--methods", nargs="+", default=["full", "lora"])
    parser.add_argument("--priors", nargs="+", default=[*PRIORS], choices=PRIORS)
    parser.add_argument("--subjects", nargs="+", default=[*SUBJECTS], choices=SUBJECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=VALUE", help="such as training.steps=400"
    )
    options = parser.parse_args(argv)
    output = options.output.resolve()
    cells = itertools.product(
        options.models, options.methods, options.seeds, options.subjects, options.priors
    )
    results: dict[tuple[Run, int], Result] = {}
    for model, method, seed, subject, prior in cells:
        run = Run(model, method, prior, subject, seed, tuple(options.set))
        job = train(run, output)
        last = job["spec"]["training"]["steps"]
        for step in (last // 2, last):
            results[run, step] = score(run, job, step)
            print(run.name, step, results[run, step], flush=True)
        (output / "table.md").write_text("\n".join(table(results)) + "\n")
    draw_sheets([run for run, _ in results], output)


def train(run: Run, output: Path) -> dict[str, Any]:
    """The run's job; it is trained unless that was done before."""
    job = run.job(output)
    folder = run_folder(job)
    if not (folder / "report.html").exists():
        attempt = len(list((folder / "logs").glob("attempt-*")))
        logs = folder / "logs" / f"attempt-{attempt}"
        ended = run_ranks(job, logs, attempt=attempt, timeout=TIMEOUT)
        if set(ended.codes) != {0}:
            raise RuntimeError(f"{run.name}: exit codes {ended.codes}\n" + "\n".join(ended.logs))
    return job


def score(run: Run, job: dict[str, Any], step: int) -> Result:
    """What the run had reached at a step."""
    before, after = (samples(job, each, prompt=1) for each in (0, step))
    kept = fidelity(encode_images(before), encode_images(after))
    assert kept
    old, new = (
        np.stack([np.asarray(each, np.float32) for each in images]) for images in (before, after)
    )
    similar, recognized = _follow_prompts(run, job, step)
    similar_before, recognized_before = _follow_prompts(run, job, 0)
    return Result(
        subject=gain(run.subject, samples(job, 0, prompt=0), samples(job, step, prompt=0)),
        prompt=similar / similar_before,
        places=recognized / recognized_before,
        fidelity=kept.value,
        pixels=float(np.abs(new - old).mean()),
    )


def gain(subject: str, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> float:
    """How far images have come to the real ones that were not trained on."""
    files = sorted((EXAMPLES / "subjects" / subject / "held-out").glob("*.png"))
    real = encode_images([Image.open(file).convert("RGB") for file in files])
    among_real = (real @ real.T)[~torch.eye(len(real), dtype=torch.bool)].mean()
    base, trained = ((encode_images(images) @ real.T).mean() for images in (before, after))
    return float((trained - base) / (among_real - base))


def _follow_prompts(run: Run, job: dict[str, Any], step: int) -> tuple[float, float]:
    """Mean cosine of images in places to their prompts, and the share whose place is recognized."""
    noun = SUBJECTS[run.subject]
    texts = _text_encoder().texts([f"a photo of a {noun} {place}" for place in PLACES])
    images = torch.stack(
        [
            _text_encoder().images(samples(job, step, prompt=2 + index))
            for index in range(len(PLACES))
        ]
    )
    cosines = images @ texts.T  # [places, images, texts]
    own = torch.stack([cosines[index, :, index] for index in range(len(PLACES))])
    recognized = cosines.argmax(-1) == torch.arange(len(PLACES))[:, None]
    return float(own.mean()), float(recognized.float().mean())


def encode_images(images: Sequence[Image.Image]) -> torch.Tensor:
    """Unit vectors of tiny-sd's DINO, [N, D]."""
    return _image_encoder().images(images)


@cache
def _image_encoder() -> ImageEncoder:
    source = EncoderSource(str(DINO), "spec.evaluation.encoders.image", reads_text=False)
    found = read_encoder(source, Storage(StorageSettings()))
    return ImageEncoder(DINO, found, source, torch.device("cpu"))


@cache
def _text_encoder() -> TextEncoder:
    source = EncoderSource(str(CLIP), "spec.evaluation.encoders.text", reads_text=True)
    found = read_encoder(source, Storage(StorageSettings()))
    return TextEncoder(CLIP, found, source, torch.device("cpu"))


def samples(job: dict[str, Any], step: int, prompt: int) -> list[Image.Image]:
    """Images of a prompt at a step."""
    folder = run_folder(job) / "samples" / f"step-{step:08d}"
    return [Image.open(folder / f"{prompt}-{index}.png").convert("RGB") for index in range(COUNT)]


def table(results: dict[tuple[Run, int], Result]) -> Iterator[str]:
    """Means over subjects and seeds, and their range, by model, method, way and steps."""
    yield f"| model | method | class half | steps | runs | {' | '.join(DIGITS)} |"
    yield "|---" * (5 + len(DIGITS)) + "|"
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for (run, step), result in results.items():
        groups.setdefault((run.model, run.method, run.prior, step), []).append(result)
    for (model, method, prior, step), group in groups.items():
        columns = [
            _mean([getattr(result, name) for result in group], digits)
            for name, digits in DIGITS.items()
        ]
        yield f"| {model} | {method} | {prior} | {step} | {len(group)} | {' | '.join(columns)} |"


def _mean(values: Sequence[float], digits: int) -> str:
    shown = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return shown
    return f"{shown} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def draw_sheets(runs: Sequence[Run], output: Path) -> None:
    """A JPEG for each model, method, subject and seed: subject and class, before and after."""
    of_sheet: dict[str, list[Run]] = {}
    for run in dict.fromkeys(runs):
        sheet = f"{run.model}-{run.method}-{run.subject}-{run.seed}"
        of_sheet.setdefault(sheet, []).append(run)
    for name, shown in of_sheet.items():
        before, after, labels = [], [], []
        for run in shown:
            job = run.job(output)
            last = job["spec"]["training"]["steps"]
            for prompt in (0, 1):
                before.append(samples(job, 0, prompt)[:4])
                after.append(samples(job, last, prompt)[:4])
                labels.append(f"{run.prior}: {job['spec']['samples']['prompts'][prompt]}")
        before_after(before, after, labels).convert("RGB").save(output / f"{name}.jpg", quality=85)
