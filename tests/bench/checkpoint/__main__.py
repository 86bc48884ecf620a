"""`make bench-checkpoint`: what saving costs the training, and how fast shards reach S3.

SeaweedFS runs on the same machine, on a GPU where there is one. The predictions were written down
before the first run; a missed target is shown as missed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import Storage, StorageSettings
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint import BackgroundSaver, CheckpointStore
from dreambooth_trainer.checkpoint.split import payload
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.bench.checkpoint import goodput, training
from tests.trainer.checkpoint_saves import RecordingListener

BUCKET = "bench"
ROUNDS = 3
RANKS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Row:
    """One figure: what was expected, what came out, and whether a target was met."""

    name: str
    predicted: str
    measured: str
    target: str = ""
    met: bool | None = None


def measure(server: SeaweedServer) -> Iterator[Row]:
    """All figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = StorageSettings(server.endpoint_url, None, "path")
    loop = training.Training(device)
    loop.step()
    size = payload(loop.state().values())
    yield Row("state in MB", "at least 200", f"{size / 1e6:.0f}", "at least 200", size >= 200e6)
    with Storage(settings) as storage:
        store = CheckpointStore(storage, f"s3://{BUCKET}/run")
        store.claim()
        yield from _saving(loop, store, settings, device)
        yield from _shares(loop, storage)
        yield from _goodput(loop, store, settings)


def _saving(
    loop: training.Training, store: CheckpointStore, settings: StorageSettings, device: torch.device
) -> Iterator[Row]:
    listener = RecordingListener()
    durable = listener.seconds
    quiet, foreground, background = [], [], []
    uploads = UploadProcess(settings)
    with BackgroundSaver(store, uploads, keep=1, listener=listener) as saver:
        saver.prepare(loop.state())
        training.quiet_step(loop)
        first = training.in_the_background(loop, saver, durable)
        for _ in range(ROUNDS):
            quiet.append(training.quiet_step(loop))
            background.append(training.in_the_background(loop, saver, durable))
            quiet.append(training.quiet_step(loop))
            foreground.append(training.in_the_foreground(loop, saver))
    waited = median(cost.blocked for cost in foreground)
    blocked = median(cost.blocked for cost in background)
    goal = 0.05 if device.type == "cuda" else 0.20
    yield Row("save in the foreground: loop blocked, s", "2.5", f"{waited:.3f}")
    yield Row("first save in the background: loop blocked, s", "0.25", f"{first.blocked:.3f}")
    yield Row("later ones: loop blocked, s", "0.10", f"{blocked:.3f}")
    yield _judged("blocked, first / foreground", "0.10", first.blocked / waited, at_most=goal)
    yield _judged("blocked, later / foreground", "0.04", blocked / waited, at_most=goal)
    slowdown = median(s for cost in background for s in cost.steps) / median(quiet)
    yield Row("step during an upload / without", "1.3", f"{slowdown:.2f}")
    later = median(cost.durable for cost in background)
    yield Row("until durable, background / foreground", "1.8", f"{later / waited:.2f}")


def _shares(loop: training.Training, storage: Storage) -> Iterator[Row]:
    tensors = loop.state()
    whole, worst, total = payload(tensors.values()), 0.0, 0
    for ranks in RANKS:
        stores = [
            CheckpointStore(
                storage,
                f"s3://{BUCKET}/shares",
                Ranks(Topology(rank=rank, world_size=ranks)),
            )
            for rank in range(ranks)
        ]
        written = [sum(layout.size for layout in s.layouts(tensors)) for s in stores]
        worst = max(worst, *(abs(share * ranks / whole - 1) for share in written))
        total = max(total, sum(written))
    yield _judged(f"a rank's bytes off 1/N, N in {RANKS}", "0.01", worst, at_most=0.10)
    yield _judged("bytes of a checkpoint / of the state", "1.001", total / whole, at_most=1.02)


def _goodput(
    loop: training.Training, store: CheckpointStore, settings: StorageSettings
) -> Iterator[Row]:
    tensors = loop.state()
    staging = Staging(store.layouts(tensors))
    staging.fill(tensors)
    staging.wait()
    assert settings.endpoint_url is not None
    megabytes = sum(shard.layout.size for shard in staging.shards) / 1e6
    raw = goodput.raw_seconds(settings.endpoint_url, BUCKET, staging, ROUNDS)
    own = goodput.upload_seconds(settings, staging, f"s3://{BUCKET}/own", ROUNDS)
    raw += goodput.raw_seconds(settings.endpoint_url, BUCKET, staging, ROUNDS)
    staging.close()
    yield Row(
        "boto3's transfer manager, best tuning, MB/s", "200", f"{megabytes / median(raw):.0f}"
    )
    yield Row("own uploads, MB/s", "170", f"{megabytes / median(own):.0f}")
    ratio = median(raw) / median(own)
    yield Row("own / boto3's", "0.85", f"{ratio:.2f}", "at least 0.90", ratio >= 0.9)


def _judged(name: str, predicted: str, value: float, at_most: float) -> Row:
    return Row(name, predicted, f"{value:.4f}", f"at most {at_most:.2f}", value <= at_most)


def main() -> int:
    """Measure and print; returns 1 when a target is missed."""
    argparse.ArgumentParser(prog="tests.bench.checkpoint", description=__doc__).parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-checkpoint-") as folder,
        SeaweedServer(Path(folder)) as server,
    ):
        os.environ.update(server.environment)
        server.create_bucket(BUCKET)
        rows = list(measure(server))
    table = Table("figure", "predicted", "measured", "target", "")
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        table.add_row(row.name, row.predicted, row.measured, row.target, verdict)
    Console(width=110).print(table)
    return int(any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
