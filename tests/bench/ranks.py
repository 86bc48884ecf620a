"""Two ranks with DDP against two independent ones, and how long a step waits for data."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from tests.bench.report import Row, ratio
from tests.bench.steps import MODEL
from tests.trainer.ranks import history, run_ranks


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    steps: int = 60
    warm_up: int = 10
    rounds: int = 3


SHORT = Sizes(steps=3, warm_up=1, rounds=1)


def measure(folder: Path, short: bool) -> Iterator[Row]:
    """DDP's cost, and the share of a step that waits for data."""
    sizes = SHORT if short else Sizes()
    _draw_subject(folder / "subject")
    joined, waits = [], []
    for number in range(sizes.rounds):
        pair = _job(folder, f"pair-{number}", batch=8, steps=sizes.steps)
        _run(pair, folder, nodes=2)
        alone = [
            _job(folder, f"alone-{number}-{side}", batch=4, steps=sizes.steps) for side in range(2)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda job: _run(job, folder, nodes=1), alone))
        together, *apart = (history(job)[sizes.warm_up :] for job in (pair, *alone))
        joined.append(_step_seconds(together) / median(_step_seconds(lines) for lines in apart))
        waits.append(_wait_share(together))
    yield ratio("step of 2 ranks in DDP / of 2 alone", joined)
    yield ratio("data wait / step", waits, at_most=0.03)


def _run(job: dict[str, Any], folder: Path, nodes: int) -> None:
    ended = run_ranks(job, folder / job["metadata"]["uid"], nodes=nodes)
    assert set(ended.codes) == {0}, f"exit codes {ended.codes}\n" + "\n".join(ended.logs)


def _step_seconds(lines: list[dict[str, float]]) -> float:
    return median(line["seconds"] for line in lines)


def _wait_share(lines: list[dict[str, float]]) -> float:
    return sum(line["data_wait_seconds"] for line in lines) / sum(line["seconds"] for line in lines)


def _draw_subject(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(folder / f"{number}.png")


def _job(folder: Path, name: str, batch: int, steps: int) -> dict[str, Any]:
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "bench", "namespace": "default", "uid": name},
        "spec": {
            "model": {"source": str(MODEL)},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}/subject"}
            ],
            "output": f"file://{folder}/ranks",
            "prior": {"count": 8, "steps": 2},
            "training": {
                "method": "full", "steps": steps, "globalBatch": batch, "resolution": 64,
                "precision": "fp32", "learningRate": 1e-6,
            },
            "checkpoints": {"every": steps},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        },
    }  # fmt: skip
