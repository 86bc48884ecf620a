"""`make bench-gpu`: the trainer's figures on one GPU, within 9 minutes and without a network.

Models are random, of the published sizes. Each row runs within a budget of its own; the document is
written anew after each, so that an end before time loses none. Markdown goes to the output, and
both forms to the folder of --output.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.bench.gpu import training
from tests.bench.gpu.figures import Result, to_json, to_markdown
from tests.bench.gpu.other_trainers import other_trainers
from tests.bench.gpu.runner import TOTAL_SECONDS, Row, run_rows
from tests.bench.gpu.sampling import class_images
from tests.bench.gpu.state import fp16_resume, memory, saves

# Together less than TOTAL_SECONDS, so that a slow row takes nothing from those behind it.
ROWS = {
    "sd15-full": Row(training.throughput, 60),
    "one-forward": Row(training.one_forward, 25),
    "other-trainers": Row(other_trainers, 40),
    "class-images": Row(class_images, 30),
    "saves": Row(saves, 65),
    "memory": Row(memory, 30),
    "fp16-resume": Row(fp16_resume, 40),
    "sdxl-lora": Row(training.sdxl_lora, 30),
    "flux2-klein-lora": Row(training.flux2_klein_lora, 35),
    "sdxl-qlora": Row(training.sdxl_qlora, 30),
    "flux2-klein-qlora": Row(training.flux2_klein_qlora, 45),
    "offload": Row(training.offloaded, 60),
    "regional-compile": Row(training.regional_compile, 50),
}
PACKAGES = ("torch", "transformers", "diffusers", "peft", "pytorch-lightning")
MEASUREMENTS: dict[str, Any] = {}
"""None for `tests.bench.report`: these rows have a runner of their own."""


def main(argv: list[str] | None = None) -> int:
    """Run rows; returns 1 when one fails, runs out of time or misses a target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ROW", help=" | ".join(ROWS))
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU; no targets")
    parser.add_argument("--output", type=Path, default=Path("bench-gpu"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="of all rows")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(ROWS):
        parser.error(f"no row is named {' or '.join(sorted(unknown))}")
    if not options.tiny and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --tiny tries the rows on a CPU")
    rows = {name: ROWS[name] for name in options.names or ROWS}
    if options.tiny:  # a row's time is that of a GPU
        rows = {name: replace(row, seconds=options.seconds) for name, row in rows.items()}
    environment, results = describe_environment(), list[Result]()
    options.output.mkdir(parents=True, exist_ok=True)
    for result in run_rows(rows, tiny=options.tiny, total_seconds=options.seconds):
        results.append(result)
        document = to_json(environment, results, judged=not options.tiny)
        (options.output / "figures.json").write_text(json.dumps(document, indent=2) + "\n")
        (options.output / "figures.md").write_text(to_markdown(document))
        sys.stderr.write(f"{result.row}: {result.outcome} after {result.seconds:.0f} s\n")
    sys.stdout.write(to_markdown(document))
    missed = not options.tiny and any(f.met is False for r in results for f in r.figures)
    return int(missed or any(r.outcome in ("failed", "timed out") for r in results))


def describe_environment() -> dict[str, str]:
    """Date, GPU, driver, versions and commit."""
    found = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    smi = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    name, _, driver = smi.partition(", ")
    found |= {"GPU": name or "none", "driver": driver or "none"}
    found["CUDA"] = torch.version.cuda or "none"
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    commit = partial(_output, "git", "-C", str(Path(__file__).parent))
    changed = " with changes" if commit("status", "--porcelain", "--untracked-files=no") else ""
    return {**found, "commit": (commit("rev-parse", "HEAD") or "unknown") + changed}


def _output(*command: str) -> str:
    """Standard output of a program, stripped; empty where it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
