"""Is the subject learned as well as by diffusers' script? The same job by both, for several seeds.

    python -m tests.bench.peers.subject OUTPUT --diffusers CHECKOUT [--subjects ...] [--seeds ...]

Both train tiny-sd on the same photos and class images, with the script's loss and settings; plain
diffusers draws images of each result from the same seeds. A run that has ended is not repeated.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import yaml
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from dreambooth_trainer.evaluation.estimates import fidelity
from tests.bench.class_experiment import EXAMPLES, SUBJECTS, encode_images, gain
from tests.bench.peers.families import TINY_SD
from tests.bench.peers.measure import RUN_SCRIPT
from tests.bench.peers.processes import run_program

SCRIPTS = {"full": "train_dreambooth.py", "lora": "train_dreambooth_lora.py"}
RATES = {"full": 1e-4, "lora": 2e-3}
RANK, RESOLUTION, BATCH, CLASS_IMAGES = 16, 64, 4, 64
IMAGES, GUIDANCE, SAMPLING_STEPS = 16, 4.0, 20
TIMEOUT = 3600.0
STUDENT_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""97.5 % quantiles of Student's t distribution, by the number of values."""


@dataclass(frozen=True)
class Cell:
    """One job, to be trained by each side."""

    method: str
    subject: str
    seed: int
    steps: int

    @property
    def noun(self) -> str:
        """Of the class."""
        return SUBJECTS[self.subject]


@dataclass(frozen=True)
class Result:
    """What one side has reached, as columns of `class_experiment.Result`."""

    subject: float
    fidelity: float


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--diffusers", type=Path, required=True, help="a checkout")
    parser.add_argument("--methods", nargs="+", default=["full"], choices=SCRIPTS)
    parser.add_argument("--subjects", nargs="+", default=["smiling-mug"], choices=SUBJECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(8)])
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args(argv)
    scripts = options.diffusers.resolve() / "examples" / "dreambooth"
    output = options.output.resolve()
    for method in options.methods:
        for subject in options.subjects:
            pairs = []
            for seed in options.seeds:
                cell = Cell(method, subject, seed, options.steps)
                theirs = _score(cell, output, _train_theirs(cell, output, scripts))
                ours = _score(cell, output, _train_ours(cell, output))
                print(cell, "diffusers:", theirs, "ours:", ours, flush=True)
                pairs.append((theirs, ours))
            for name in ("subject", "fidelity"):
                theirs, ours = (
                    [getattr(each, name) for each in side] for side in zip(*pairs, strict=True)
                )
                print(f"{method} {subject} {name}: {_compare(theirs, ours)}", flush=True)


def _compare(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Means, and the mean difference with its 95 % interval of Student's t distribution."""
    differences = [b - a for a, b in zip(theirs, ours, strict=True)]
    means = f"diffusers {fmean(theirs):.3f}, ours {fmean(ours):.3f}"
    if len(differences) not in STUDENT_T:
        return f"{means}, difference {fmean(differences):+.3f}"
    half = STUDENT_T[len(differences)] * stdev(differences) / len(differences) ** 0.5
    low, high = fmean(differences) - half, fmean(differences) + half
    return f"{means}, difference {fmean(differences):+.3f} ({low:+.3f} to {high:+.3f})"


def _photos(cell: Cell, output: Path) -> Path:
    """The photos alone: the script opens all that a folder holds."""
    folder = output / "photos" / cell.subject
    if not folder.exists():
        shutil.copytree(
            EXAMPLES / "subjects" / cell.subject, folder, ignore=shutil.ignore_patterns("held-out")
        )
    return folder


def _class_images(cell: Cell, output: Path) -> Path:
    folder = output / "classes" / cell.noun
    if not folder.exists():
        images = _draw(TINY_SD, f"a photo of a {cell.noun}", range(1000, 1000 + CLASS_IMAGES))
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(folder / f"{number}.png")
    return folder


def _train_theirs(cell: Cell, output: Path, scripts: Path) -> Path:
    """The script's pipeline or LoRA."""
    folder = output / "theirs" / f"{cell.method}-{cell.subject}-{cell.seed}-{cell.steps}"
    if (folder / "ended").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(RUN_SCRIPT), str(scripts / SCRIPTS[cell.method]),
        f"--pretrained_model_name_or_path={TINY_SD}",
        f"--instance_data_dir={_photos(cell, output)}",
        f"--instance_prompt=a photo of sks {cell.noun}",
        "--with_prior_preservation", f"--class_data_dir={_class_images(cell, output)}",
        f"--class_prompt=a photo of a {cell.noun}", f"--num_class_images={CLASS_IMAGES}",
        f"--output_dir={folder}", f"--resolution={RESOLUTION}", "--center_crop",
        f"--train_batch_size={BATCH}", f"--max_train_steps={cell.steps}",
        f"--checkpointing_steps={2 * cell.steps}", f"--seed={cell.seed}",
        f"--learning_rate={RATES[cell.method]}", "--lr_scheduler=constant",
    ]  # fmt: skip
    if cell.method == "lora":
        command.append(f"--rank={RANK}")
    run_program(command, {}, folder.with_suffix(".log"), TIMEOUT)
    (folder / "ended").touch()
    return folder


def _train_ours(cell: Cell, output: Path) -> Path:
    """The export."""
    name = f"{cell.method}-{cell.subject}-{cell.seed}-{cell.steps}"
    folder = output / "ours" / "default" / "subject" / name
    if not (folder / "report.html").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (output / "ours").mkdir(exist_ok=True)
        log = output / "ours" / f"{name}.log"
        file = log.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(_job(cell, output, name)))
        environment = {
            "DREAMBOOTH_TERMINATION_LOG": str(log.with_suffix(".termination")),
            "DREAMBOOTH_CACHE_DIR": str(output / "cache"),
            "DREAMBOOTH_METRICS_PORT": "0",
        }
        command = [sys.executable, "-m", "dreambooth_trainer", "--config", str(file)]
        run_program(command, environment, log, TIMEOUT)
    return folder / "export"


def _job(cell: Cell, output: Path, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "subject", "namespace": "default", "uid": name},
        "spec": {
            "model": {"source": str(TINY_SD)},
            "subjects": [
                {
                    "identifier": "sks", "classNoun": cell.noun,
                    "images": f"file://{_photos(cell, output)}",
                }
            ],
            "output": f"file://{output}/ours",
            "prior": {
                "target": "noise", "weight": 1, "emptyPromptFraction": 0,
                "count": CLASS_IMAGES, "images": f"file://{_class_images(cell, output)}",
            },
            "training": {
                "method": cell.method, "steps": cell.steps, "globalBatch": BATCH,
                "precision": "fp32", "resolution": RESOLUTION, "flip": False,
                "lora": {"rank": RANK}, "learningRate": RATES[cell.method], "seed": cell.seed,
                "schedule": {"name": "constant"},
            },
            "checkpoints": {"every": cell.steps, "keep": 1},
            "samples": {"count": 1, "steps": 1},
            "runtime": {"gpusPerNode": 0},
        },
    }  # fmt: skip


def _score(cell: Cell, output: Path, trained: Path) -> Result:
    prompts = f"a photo of sks {cell.noun}", f"a photo of a {cell.noun}"
    seeds = range(IMAGES)
    subject_before, class_before = (_draw(TINY_SD, prompt, seeds) for prompt in prompts)
    subject, other = (_draw(TINY_SD, prompt, seeds, trained) for prompt in prompts)
    kept = fidelity(encode_images(class_before), encode_images(other))
    assert kept
    return Result(gain(cell.subject, subject_before, subject), kept.value)


def _draw(
    base: Path, prompt: str, seeds: Sequence[int], trained: Path | None = None
) -> list[Image.Image]:
    """Images of the base model, of a pipeline, or of the base model with a LoRA."""
    is_pipeline = trained is not None and (trained / "model_index.json").exists()
    pipeline = StableDiffusionPipeline.from_pretrained(
        trained if is_pipeline else base, torch_dtype=torch.float32
    )
    if trained is not None and not is_pipeline:
        pipeline.load_lora_weights(trained)
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = pipeline(
        [prompt] * len(seeds), height=RESOLUTION, width=RESOLUTION, guidance_scale=GUIDANCE,
        num_inference_steps=SAMPLING_STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images  # fmt: skip
    return images


if __name__ == "__main__":
    main()
