"""`make bench-peers` against scripts that stand in for diffusers'."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import load
from tests.bench.peers.__main__ import measurements
from tests.bench.peers.families import Peer
from tests.bench.peers.measure import CLASS_FOLDERS, RUN_SCRIPT, compare
from tests.bench.peers.processes import ProgramError, Usage, run_program

TRAINS = """
import pathlib, sys, torch
from safetensors.torch import save_file
options = dict(each.split("=", 1) for each in sys.argv[1:] if "=" in each)
output = pathlib.Path(options["--output_dir"])
checkpoint = output / f"checkpoint-{options['--max_train_steps']}"
checkpoint.mkdir(parents=True)
(checkpoint / "state.bin").write_bytes(bytes(240))
save_file({"lora_A": torch.zeros(10)}, output / "pytorch_lora_weights.safetensors")
"""


def _checkout(folder: Path, script: str) -> Path:
    scripts = folder / "diffusers" / "examples" / "dreambooth"
    scripts.mkdir(parents=True)
    (scripts / "train_dreambooth_lora.py").write_text(script)
    return folder / "diffusers"


ROWS = [
    "diffusers' step / ours", "diffusers' step's CPU time / ours", "diffusers' whole job / ours",
    "diffusers' whole job's CPU time / ours", "diffusers' class image / ours",
    "diffusers' peak memory / ours", "diffusers' checkpoint bytes / payload",
    "our checkpoint bytes / payload",
]  # fmt: skip


@pytest.mark.slow
def test_a_script_is_measured_against_the_trainer(tmp_path: Path) -> None:
    measure = measurements(_checkout(tmp_path, TRAINS))["sd-lora"]
    rows = {row.name: row.value for row in measure(tmp_path, True)}
    assert list(rows) == ROWS
    assert rows["diffusers' checkpoint bytes / payload"] == "2.000"
    assert float(rows["diffusers' whole job / ours"]) < 1  # it trains nothing


class Programs:
    """Takes the time of programs from a table, and writes what they would."""

    def __init__(self) -> None:
        self.jobs: list[DreamBoothJob] = []
        self.steps: list[int] = []

    def run(self, command: list[str], environment: dict[str, str], log: Path) -> Usage:
        if "dreambooth_trainer" in command:
            job = load(Path(command[-1]))
            self.jobs.append(job)
            steps, images, second = job.spec.training.steps, job.spec.prior.count, 1.0
            output = Path(job.spec.output.removeprefix("file://"))
            (output / "default" / "peer" / "peer" / "checkpoints").mkdir(parents=True)
        else:
            options = dict(each.split("=", 1) for each in command if "=" in each)
            steps, second = int(options["--max_train_steps"]), 2.0
            images = int(options.get("--num_class_images", 0))
            output = Path(options["--output_dir"])
            checkpoint = output / f"checkpoint-{steps}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "state.bin").write_bytes(bytes(240))
            save_file({"A": torch.zeros(10)}, output / "pytorch_lora_weights.safetensors")
        self.steps.append(steps)
        making = images if log.name == "making.log" else 0
        seconds = second * (10 + steps + 3 * making)
        return Usage(seconds, 2 * seconds, peak_bytes=int(100 * second))


def test_fixed_costs_drop_out_of_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Programs()
    monkeypatch.setattr("tests.bench.peers.measure.run_program", programs.run)
    rows = list(measurements(_checkout(tmp_path, ""))["sd-lora"](tmp_path, True))
    assert [row.name for row in rows] == ROWS
    assert [row.value for row in rows] == ["2.000"] * 7 + ["0.000"]
    assert programs.steps == [2, 2, 6] * 2
    assert {job.spec.training.steps for job in programs.jobs} == {2, 6}
    assert {job.spec.prior.count for job in programs.jobs} == {2}


@pytest.mark.parametrize("class_images", ["drawn", "none"])
def test_both_sides_find_the_same_class_images_or_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_images: Literal["drawn", "none"]
) -> None:
    programs = Programs()
    monkeypatch.setattr("tests.bench.peers.measure.run_program", programs.run)
    scripts = _checkout(tmp_path, "") / "examples" / "dreambooth"
    peer = Peer("train_dreambooth_lora.py", class_images=class_images)
    rows = list(compare(peer, scripts, tmp_path, True))
    assert [row.name for row in rows] == [name for name in ROWS if "class image" not in name]
    assert programs.steps == [2, 6] * 2
    [prior] = {job.spec.prior.model_dump_json(): job.spec.prior for job in programs.jobs}.values()
    assert prior.enabled == (class_images == "drawn")
    folders = [tmp_path / folder for folder in CLASS_FOLDERS if class_images == "drawn"]
    assert [len(list(folder.iterdir())) for folder in folders] == [2] * len(folders)
    assert prior.images == (f"file://{folders[1]}" if folders else None)


def test_a_script_that_cannot_run_is_reported_with_its_reason(tmp_path: Path) -> None:
    measure = measurements(_checkout(tmp_path, "import no_such_vision"))["sd-lora"]
    [row] = measure(tmp_path, True)
    assert row.name == "cannot run here"
    assert row.value == "ModuleNotFoundError: No module named 'no_such_vision'"


SHAPE = """
import json, pathlib, sys
from torchvision import transforms
from torchvision.transforms import functional as TF
from PIL import Image
prepare = transforms.Compose([
    transforms.Resize(64, interpolation=transforms.InterpolationMode.BILINEAR),
    transforms.RandomCrop(64), transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
])
image = prepare(Image.new("RGB", (100, 50), (255, 0, 0)))
print(list(image.shape), image[:, 0, 0].tolist(), TF.center_crop(Image.new("RGB", (9, 9)), 4).size)
from transformers.utils import is_torchvision_available
print(sys.argv[1:], is_torchvision_available())
"""


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_scripts_crop_and_normalize_without_torchvision(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SHAPE)
    ended = subprocess.run(
        [sys.executable, RUN_SCRIPT, script, "--steps=2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = ended.stdout.splitlines()
    assert first == "[3, 64, 64] [1.0, -1.0, -1.0] (4, 4)"
    assert second == "['--steps=2'] False"


def test_a_checkout_without_a_script_is_reported(tmp_path: Path) -> None:
    [row] = measurements(_checkout(tmp_path, ""))["sdxl"](tmp_path, True)
    assert (row.name, row.value) == (
        "skipped",
        "the checkout has no train_dreambooth_lora_sdxl.py",
    )


def test_the_memory_of_all_processes_counts(tmp_path: Path) -> None:
    child = "import time; block = bytearray(200_000_000); time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    usage = run_program([sys.executable, "-c", parent], {}, tmp_path / "log")
    assert usage.peak_bytes > 200_000_000


def test_a_program_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ProgramError, match="no end within 1 s"):
        run_program(
            [sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log", timeout=1
        )
    assert time.monotonic() - began < 30
