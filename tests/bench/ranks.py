"""Two ranks with DDP against two independent ones, and how long a step waits for data."""

import threading
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from tests.bench.steps import MODEL
from tests.trainer.ranks import history, run_ranks

STEPS = 60
WARM_UP = 10
ROUNDS = 3


def measure(folder: Path) -> list[tuple[str, list[float], float | None]]:
    """Rows of the table: DDP's cost, and the share of a step that waits for data."""
    _draw_subject(folder / "subject")
    joined, waits = [], []
    for number in range(ROUNDS):
        pair = _job(folder, f"pair-{number}", batch=8)
        run_ranks(pair, folder / f"pair-{number}", nodes=2)
        alone = [_job(folder, f"alone-{number}-{side}", batch=4) for side in range(2)]
        _both([(job, folder / job["metadata"]["uid"]) for job in alone])
        joined.append(_step_seconds(pair) / median(_step_seconds(job) for job in alone))
        waits.append(_wait_share(pair))
    return [
        ("step of 2 ranks in DDP / of 2 alone", joined, None),
        ("data wait / step", waits, 0.03),
    ]


def _both(runs: list[tuple[dict[str, Any], Path]]) -> None:
    threads = [threading.Thread(target=run_ranks, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _step_seconds(job: dict[str, Any]) -> float:
    return median(line["seconds"] for line in history(job)[WARM_UP:])


def _wait_share(job: dict[str, Any]) -> float:
    lines = history(job)[WARM_UP:]
    return sum(line["data_wait_seconds"] for line in lines) / sum(line["seconds"] for line in lines)


def _draw_subject(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 200)).save(folder / f"{number}.png")


def _job(folder: Path, name: str, batch: int) -> dict[str, Any]:
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
                "method": "full", "steps": STEPS, "globalBatch": batch, "resolution": 64,
                "precision": "fp32", "learningRate": 1e-6,
            },
            "checkpoints": {"every": STEPS},
            "samples": {"steps": 2, "count": 1},
            "runtime": {"gpusPerNode": 0},
        },
    }  # fmt: skip
