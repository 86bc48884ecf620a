import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.models.results.tracking import Tracking, Wandb, WandbSecret
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.telemetry.trackers import Trackers, open_trackers


@pytest.fixture
def storage() -> Storage:
    return Storage(StorageSettings(endpoint_url=None, region=None, addressing_style="auto"))


def open_for(tracking: Tracking, storage: Storage, folder: Path, **options: Any) -> Trackers:
    settings: dict[str, Any] = {
        "rank": 0, "attempt": 0, "run_id": "abc123", "name": "mug", "config": {"steps": 3},
        **options,
    }  # fmt: skip
    return open_trackers(tracking, storage, OutputLayout(f"file://{folder}"), **settings)


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_shows_scalars_and_grids(storage: Storage, tmp_path: Path) -> None:
    trackers = open_for(Tracking(tensorboard=True), storage, tmp_path)
    trackers.log(1, {"loss/total": 0.5, "learning_rate": 1e-4})
    trackers.log(2, {"loss/total": 0.25, "learning_rate": 1e-4})
    trackers.images(2, Image.new("RGB", (32, 16), "red"))
    trackers.close()
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss/total")] == [(1, 0.5), (2, 0.25)]
    image = found.Images("samples")[0]
    assert (image.step, image.width, image.height) == (2, 32, 16)


def test_tensorboard_is_durable_at_each_checkpoint(storage: Storage, tmp_path: Path) -> None:
    trackers = open_for(Tracking(tensorboard=True), storage, tmp_path)
    for step in range(500):
        trackers.log(step, {"loss/total": 0.5})
    trackers.sync()
    assert [e.step for e in events(tmp_path).Scalars("loss/total")] == list(range(500))
    trackers.close()


def test_attempts_continue_one_tensorboard_run(storage: Storage, tmp_path: Path) -> None:
    for attempt in (0, 1):
        trackers = open_for(Tracking(tensorboard=True), storage, tmp_path, attempt=attempt)
        trackers.log(attempt + 1, {"loss/total": 0.5})
        trackers.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert {e.step for e in events(tmp_path).Scalars("loss/total")} == {1, 2}


def test_wandb_offline_leaves_a_run_that_can_be_synchronised(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell-anyone")
    # Of other tests; W&B would say that it has a product for it.
    monkeypatch.delitem(sys.modules, "openai", raising=False)
    tracking = Tracking(wandb=Wandb(project="dreams", mode="offline"))
    trackers = open_for(tracking, storage, tmp_path)
    trackers.log(1, {"loss/total": 0.5})
    trackers.images(1, Image.new("RGB", (32, 16), "red"))
    trackers.sync()
    trackers.close()
    out = capfd.readouterr()
    assert (out.out, out.err) == ("", "")
    files = [p for p in (tmp_path / "wandb").rglob("*") if p.is_file()]
    (run,) = [p for p in files if p.name == "run-abc123.wandb"]
    content = run.read_bytes()
    assert b"loss/total" in content
    assert b"dreams" in content
    assert not any(b"do-not-tell-anyone" in p.read_bytes() for p in files)


def test_wandb_keeps_the_picture_of_an_earlier_step_than_the_last(
    storage: Storage, tmp_path: Path
) -> None:
    trackers = open_for(Tracking(wandb=Wandb(project="dreams", mode="offline")), storage, tmp_path)
    trackers.images(20, Image.new("RGB", (32, 16), "red"))
    trackers.images(10, Image.new("RGB", (32, 16), "blue"))  # the best one
    trackers.log(20, {"scores/selection": 0.5})
    trackers.close()
    (file,) = (tmp_path / "wandb").rglob("run-abc123.wandb")
    content = file.read_bytes()
    assert len(set(re.findall(rb"media/images/samples[/\w-]*\.png", content))) == 2
    assert b"samples/step-10" in content


def test_wandb_online_without_a_key_is_a_warning_that_says_what_to_do(
    storage: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracking = Tracking(wandb=Wandb(project="dreams", secret_ref=WandbSecret(name="wandb")))
    trackers = open_for(tracking, storage, tmp_path)
    trackers.log(1, {"loss/total": 0.5})
    trackers.close()
    assert "spec.tracking.wandb.secretRef" in caplog.text


def test_only_rank_zero_tracks(storage: Storage, tmp_path: Path) -> None:
    tracking = Tracking(tensorboard=True, wandb=Wandb(project="dreams", mode="offline"))
    trackers = open_for(tracking, storage, tmp_path, rank=1)
    trackers.log(1, {"loss/total": 0.5})
    trackers.close()
    assert list(tmp_path.iterdir()) == []


class Counting:
    """A tracker that fails on its second step."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self.steps.append(step)
        if step == 2:
            raise ConnectionError("the tracker's server is down")

    def images(self, step: int, grid: Image.Image) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_tracker_that_fails_is_left_out_and_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, trackers = Counting(), Trackers()
    trackers.add("The tracker", lambda: failing)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3, 4):
            trackers.log(step, {"loss/total": 0.5})
        trackers.close()
    assert failing.steps == [1, 2]
    assert [r.getMessage() for r in caplog.records] == [
        "The tracker failed, the training goes on without it: the tracker's server is down"
    ]
