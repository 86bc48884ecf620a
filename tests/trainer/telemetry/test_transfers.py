"""What storage reports reaches the watchdog and the metrics."""

from pathlib import Path

import pytest

from dreambooth_storage import ObjectNotFoundError, Storage, StorageSettings
from dreambooth_trainer.process import heartbeat
from dreambooth_trainer.telemetry.metrics import Metrics
from dreambooth_trainer.telemetry.transfers import TransferTelemetry


def test_answers_are_heartbeats_and_transfers_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []
    monkeypatch.setattr(heartbeat, "send", lambda: beats.append(1))
    metrics = Metrics({"job": "mug"})
    with Storage(StorageSettings(), TransferTelemetry(metrics)) as storage:
        storage.write(f"file://{tmp_path}/x", b"content")
        with pytest.raises(ObjectNotFoundError):
            storage.read(f"file://{tmp_path}/nowhere")
    assert len(beats) == 1
    line = b'dreambooth_trainer_s3_bytes_total{job="mug",operation="write"} 7.0'
    assert line in metrics.render()
