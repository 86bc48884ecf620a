"""One family by diffusers' script and by the trainer: the same model, images, batch and steps.

Each side runs two or three times a round: with few steps and class images to make, if it makes any;
with few steps and class images that are there; with many steps. Differences give the time of a step
and of a class image without start and end of the program, measured alike on both sides.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import safe_open

from tests.bench.peers.families import Peer
from tests.bench.peers.processes import ProgramError, Usage, run_program
from tests.bench.report import Row, ratio

RUN_SCRIPT = Path(__file__).with_name("run_script.py")
CLASS_FOLDERS = "theirs-classes", "ours-classes"
RANK = 4
RESOLUTION = 64
BYTES_PER_TRAINED = 12
"""Of a checkpoint's payload: weight and AdamW's two moments in fp32."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    few: int = 2
    many: int = 62
    class_images: int = 8
    rounds: int = 2


WIDE = Sizes(many=12)
SHORT = Sizes(many=6, class_images=2, rounds=1)


@dataclass(frozen=True)
class Side:
    """One trainer: `run(steps, log)` trains once, `checkpoints()` is its newest checkpoint."""

    run: Callable[[int, Path], Usage]
    clear: Callable[[], None]
    checkpoint: Callable[[int], Path]


@dataclass(frozen=True)
class Measured:
    """Of one side in one round."""

    step: float
    step_cpu: float
    class_image: float | None
    """None where none was made."""
    job: float
    job_cpu: float
    peak: int


def compare(peer: Peer, scripts: Path, folder: Path, short: bool) -> Iterator[Row]:
    """Ratios of diffusers' script to ours; above 1, ours is faster or smaller."""
    script = scripts / peer.script
    if not script.is_file():
        yield Row("skipped", f"the checkout has no {peer.script}")
        return
    sizes = SHORT if short else Sizes() if peer.width == 1 else WIDE
    model = peer.build(folder / "model")
    _draw(folder / "images", 4)
    if peer.class_images == "drawn":
        for whose in CLASS_FOLDERS:
            _draw(folder / whose, sizes.class_images)
    theirs = _diffusers(peer, script, model, folder, sizes)
    ours = _trainer(peer, model, folder, sizes)
    rounds = []
    for number in range(sizes.rounds):
        try:
            other = _measure(theirs, peer, sizes, folder / f"theirs-{number}")
        except ProgramError as error:
            yield Row("cannot run here", str(error))
            return
        rounds.append((other, _measure(ours, peer, sizes, folder / f"ours-{number}")))
    figures: dict[str, Callable[[Measured], float]] = {
        "step": lambda each: each.step,
        "step's CPU time": lambda each: each.step_cpu,
        "whole job": lambda each: each.job,
        "whole job's CPU time": lambda each: each.job_cpu,
        "class image": lambda each: each.class_image or 0,
        "peak memory": lambda each: each.peak,
    }
    if peer.class_images != "made":
        del figures["class image"]
    for name, value in figures.items():
        # A difference of two runs is below 0 where a busy machine varies more than it.
        ratios = [value(a) / value(b) for a, b in rounds if min(value(a), value(b)) > 0]
        label = f"diffusers' {name} / ours"
        yield ratio(label, ratios) if ratios else Row(label, "the machine is too busy to tell")
    if peer.method == "lora":
        sides = {"diffusers'": theirs, "our": ours}
        payload = _payload(folder / "theirs" / "pytorch_lora_weights.safetensors")
        for whose, side in sides.items():
            files = side.checkpoint(sizes.many).rglob("*")
            size = sum(path.stat().st_size for path in files if path.is_file())
            yield ratio(f"{whose} checkpoint bytes / payload", [size / payload])


def _measure(side: Side, peer: Peer, sizes: Sizes, logs: Path) -> Measured:
    logs.mkdir()
    making = None
    if peer.class_images == "made":
        side.clear()
        making = side.run(sizes.few, logs / "making.log")
    few = side.run(sizes.few, logs / "few.log")
    many = side.run(sizes.many, logs / "many.log")
    return Measured(
        step=(many.seconds - few.seconds) / (sizes.many - sizes.few),
        step_cpu=(many.cpu_seconds - few.cpu_seconds) / (sizes.many - sizes.few),
        class_image=(making.seconds - few.seconds) / sizes.class_images if making else None,
        job=many.seconds,
        job_cpu=many.cpu_seconds,
        peak=many.peak_bytes,
    )


def _diffusers(peer: Peer, script: Path, model: Path, folder: Path, sizes: Sizes) -> Side:
    output, classes = folder / "theirs", folder / CLASS_FOLDERS[0]
    prior = [
        "--with_prior_preservation", f"--class_data_dir={classes}",
        "--class_prompt=a photo of a mug", f"--num_class_images={sizes.class_images}",
    ]  # fmt: skip
    if peer.class_images == "none":
        prior = []

    def run(steps: int, log: Path) -> Usage:
        shutil.rmtree(output, ignore_errors=True)
        command = [
            sys.executable, str(RUN_SCRIPT), str(script),
            f"--pretrained_model_name_or_path={model}", f"--instance_data_dir={folder / 'images'}",
            "--instance_prompt=a photo of sks mug",
            *prior,
            f"--output_dir={output}", f"--resolution={RESOLUTION}", "--train_batch_size=1",
            f"--max_train_steps={steps}", f"--checkpointing_steps={steps}", "--seed=0",
            "--learning_rate=1e-4", *peer.arguments,
        ]  # fmt: skip
        if peer.method == "lora":
            command.append(f"--rank={RANK}")
        return run_program(command, {}, log)

    return Side(
        run,
        lambda: shutil.rmtree(classes, ignore_errors=True),
        lambda steps: output / f"checkpoint-{steps}",
    )


def _trainer(peer: Peer, model: Path, folder: Path, sizes: Sizes) -> Side:
    output, cache = folder / "ours", folder / CLASS_FOLDERS[1]

    def run(steps: int, log: Path) -> Usage:
        shutil.rmtree(output, ignore_errors=True)
        job = _job(peer, model, folder, steps, sizes)
        file = log.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(job))
        environment = {
            "DREAMBOOTH_TERMINATION_LOG": str(log.with_suffix(".termination")),
            "DREAMBOOTH_CACHE_DIR": str(folder / "cache"),
            "DREAMBOOTH_METRICS_PORT": "0",
        }
        command = [sys.executable, "-m", "dreambooth_trainer", "--config", str(file)]
        return run_program(command, environment, log)

    return Side(
        run,
        lambda: shutil.rmtree(cache, ignore_errors=True),
        lambda _: next(output.rglob("checkpoints")),
    )


def _prior(peer: Peer, folder: Path, sizes: Sizes) -> dict[str, Any]:
    if peer.class_images == "none":
        return {"enabled": False}
    where = "cache" if peer.class_images == "made" else "images"
    return {
        # The class half as the peers train it.
        "target": "noise", "emptyPromptFraction": 0,
        "count": sizes.class_images, where: f"file://{folder / CLASS_FOLDERS[1]}",
    }  # fmt: skip


def _job(peer: Peer, model: Path, folder: Path, steps: int, sizes: Sizes) -> dict[str, Any]:
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "peer", "namespace": "default", "uid": "peer"},
        "spec": {
            "model": {"source": str(model)},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}/images"}
            ],
            "output": f"file://{folder}/ours",
            "prior": _prior(peer, folder, sizes),
            "training": {
                "method": peer.method, "steps": steps, "globalBatch": 1, "precision": "fp32",
                "resolution": RESOLUTION, "lora": {"rank": RANK}, "learningRate": 1e-4,
                **peer.training,
            },
            "checkpoints": {"every": steps, "keep": 1},
            "samples": {"count": 1, "steps": 1},
            "runtime": {"gpusPerNode": 0},
        },
    }  # fmt: skip


def _payload(file: Path) -> int:
    """Bytes of the trained weights of an exported LoRA, and of their moments."""
    with safe_open(file, "pt") as weights:
        count = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    return count * BYTES_PER_TRAINED


def _draw(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (64, 64), (30 * number, 90, 200)).save(folder / f"{number}.png")
