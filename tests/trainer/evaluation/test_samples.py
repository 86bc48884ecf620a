"""Sample images that nobody waits for any more are not made, or not written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.samples import SampleWriter
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.chunks import CHUNK_SIZE
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import FencedError
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.resolved import resolve


def attempt(folder: Path, stop: StopSignal) -> Attempt:
    job = resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "/nowhere"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "file:///none"}],
                "output": f"file://{folder}",
                "training": {"resolution": 64, "precision": "fp32"},
                "samples": {"count": 1, "steps": 1},
                "runtime": {"gpusPerNode": 0},
            },
        }
    )
    storage = Storage(StorageSettings(None, None, "auto"))
    telemetry = Telemetry(job, Topology())
    return Attempt(job, Ranks(Topology()), storage, telemetry, stop, torch.device("cpu"))


def test_who_is_asked_to_stop_paints_no_further_chunk(random_pipeline: Any, tmp_path: Path) -> None:
    made: list[int] = []
    stop = StopSignal()
    decode = random_pipeline.vae.decode

    def decode_and_stop(*args: Any, **options: Any) -> Any:
        made.append(1)
        stop.requested = len(made) == CHUNK_SIZE
        return decode(*args, **options)

    random_pipeline.vae.decode = decode_and_stop
    generator = ImageGenerator(attempt(tmp_path, stop), StableDiffusion(random_pipeline, ""))
    with pytest.raises(StoppedError):
        generator.generate(
            [ImageRequest("a photo of a mug", seed) for seed in range(3 * CHUNK_SIZE)]
        )
    assert len(made) == CHUNK_SIZE


def test_a_lost_attempt_writes_no_samples(random_pipeline: Any, tmp_path: Path) -> None:
    def lost() -> None:
        raise FencedError("a newer attempt owns it")

    one = attempt(tmp_path, StopSignal())
    generator = ImageGenerator(one, StableDiffusion(random_pipeline, ""))
    with pytest.raises(FencedError):
        SampleWriter(generator, one, lost).write(0)
    assert list(tmp_path.rglob("*.png")) == []
    SampleWriter(generator, one, lambda: None).write(0)
    assert len(list(tmp_path.rglob("*.png"))) == 2  # the image, and the grid
    [settings] = tmp_path.rglob("settings.json")
    assert json.loads(settings.read_text())["samples"]["count"] == 1


def test_samples_reach_the_trackers_without_being_read_back(
    random_pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_read(_: Storage, uri: str, **__: Any) -> bytes:
        raise AssertionError(f"{uri} is read")

    monkeypatch.setattr(Storage, "read", no_read)
    one, shown = attempt(tmp_path, StopSignal()), []
    monkeypatch.setattr(one.telemetry.trackers, "images", lambda *each: shown.append(each))
    generator = ImageGenerator(one, StableDiffusion(random_pipeline, ""))
    SampleWriter(generator, one, lambda: None).write(0)
    [(step, sheet)] = shown
    [written] = tmp_path.rglob("grid.png")
    assert step == 0
    assert sheet.tobytes() == Image.open(written).tobytes()
    assert one.telemetry.progress.snapshot().samples == [f"file://{written}"]
