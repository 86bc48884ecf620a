"""Runs as the trainer stores them, made up: their pictures are drawn."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dreambooth_api.contract.layout import OutputLayout

PROMPTS = ("a photo of sks mug", "a photo of sks mug on the beach", "a photo of a mug")


def picture(hue: float, side: int = 64) -> bytes:
    """A PNG with a disk of some color."""
    image = Image.new("RGB", (side, side), (232, 226, 214))
    color = tuple(int(128 + 110 * math.cos(hue + shift)) for shift in (0, 2.1, 4.2))
    box = (side // 5, side // 4, side * 4 // 5, side * 5 // 6)
    ImageDraw.Draw(image).rounded_rectangle(box, side // 8, fill=color)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_run(
    folder: Path,
    *,
    name: str = "smiling-mug",
    prompts: tuple[str, ...] = PROMPTS,
    steps: tuple[int, ...] = (0, 200, 400, 600, 800),
    seeds: int = 4,
    side: int = 64,
    card: str = "",
    **record: Any,
) -> str:
    """Write a run that succeeded to a folder; returns the URI of the run.

    `record` replaces entries of run.json.
    """
    layout = OutputLayout(f"file://{folder / 'run'}")
    root = folder / "run"

    def write(uri: str, data: bytes | str) -> None:
        path = root / uri.removeprefix(f"{layout.root}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    photos = [f"file://{folder}/photos/{i}.png" for i in range(5)]
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for number, uri in enumerate(photos):
        Path(uri.removeprefix("file://")).write_bytes(picture(0.1 * number, 160))
    for step in steps:
        for prompt in range(len(prompts)):
            for seed in range(seeds):
                hue = 3 + seed * 0.2 - 3 * step / (max(steps) or 1) * (prompt < 2)
                write(f"{layout.samples(step)}/{prompt}-{seed}.png", picture(hue, side))
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": name, "namespace": "default", "uid": "0000"},
        "spec": {
            "model": {"source": "s3://dreambooth/models/tiny-sd"},
            "subjects": [
                {"identifier": "sks", "classNoun": "mug", "images": f"file://{folder}/photos"}
            ],
            "output": f"file://{folder}",
            "training": {"steps": max(steps) or 1},
            "samples": {"prompts": list(prompts), "count": seeds},
        },
    }
    write(
        layout.run_record,
        json.dumps(
            {
                "format": 1,
                "job": job,
                "globalBatch": 4,
                "modelLicense": {"name": "apache-2.0", "link": "https://www.apache.org/licenses"},
                "seeds": {"training": 0, "prior": 0, "samples": 42},
                "hashes": {"model": "ab" * 32, "sks/0.jpg": "cd" * 32},
                "images": {"sks": photos, "class mug": photos[:3]},
                "warnings": [
                    "spec.subjects[0].images: 2 file(s) are not trained on, 5 are:\n"
                    "  blurred.jpg: is damaged\n  copy.jpg: the same picture as 0.jpg",
                    "spec.training.learningRate: is high for this model",
                ],
                "attempts": [
                    {
                        "attempt": number,
                        "startedAt": f"2026-01-31T10:0{number}:00Z",
                        "worldSize": 2,
                        "resumedFromStep": 400 if number else None,
                        "versions": {"python": "3.11.2", "torch": "2.9.0"},
                        "devices": ["NVIDIA L4", "NVIDIA L4"],
                    }
                    for number in range(2)
                ],
                **record,
            }
        ),
    )
    ends = [
        {
            "exitCode": 71,
            "rank": 1,
            "message": "out of GPU memory",
            "endedAt": "2026-01-31T10:00:50Z",
        },
        {"exitCode": 0, "rank": 0, "message": "done", "endedAt": "2026-01-31T10:03:20Z"},
    ]
    for number, end in enumerate(ends):
        write(layout.attempt_end(number), json.dumps(end))
    draw = random.Random(0)
    write(
        layout.history,
        "".join(
            json.dumps(
                {
                    "step": step,
                    "loss": 0.3,
                    "subject_loss": 0.05 + 0.3 * math.exp(-step / 200) * draw.uniform(0.5, 1.6),
                    "prior_loss": 0.1 + 0.05 * draw.uniform(0.5, 1.6),
                    "learning_rate": 1e-4 * min(1, step / 80),
                    "seconds": 0.18 * draw.uniform(0.9, 1.3),
                    "data_wait_seconds": 0,
                }
            )
            + "\n"
            for step in range(1, max(steps) + 1)
        ),
    )
    write(f"{layout.export}/README.md", card or "# sks\n\nA LoRA.\n\n```python\nprint(1)\n```\n")
    return layout.root
