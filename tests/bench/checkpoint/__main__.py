"""`make bench-checkpoint`: what saving costs the training, and how fast shards reach S3.

SeaweedFS runs on the same machine, on a GPU where there is one. The predictions were written down
before the first run; a missed target is shown as missed.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import Storage, StorageSettings
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_trainer.checkpoint import BackgroundSaver, CheckpointStore
from dreambooth_trainer.checkpoint.split import payload
from dreambooth_trainer.checkpoint.staging import Staging
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.topology import Topology
from tests.bench.checkpoint import goodput, training
from tests.bench.report import Measurement, Row, credentials, main
from tests.trainer.checkpoint_saves import RecordingListener

BUCKET = "bench"
ROUNDS = 3
RANKS = (2, 3, 4, 8)
SMALLEST_STATE = 200e6


def _on_a_server(
    rows: Callable[[training.Training, StorageSettings, bool], Iterator[Row]],
) -> Measurement:
    """The measurement of a training loop with a SeaweedFS of its own."""

    def measure(folder: Path, short: bool) -> Iterator[Row]:
        with SeaweedServer(folder) as server, credentials(server.environment):
            server.create_bucket(BUCKET)
            loop = training.Training(training.device(), short)
            loop.step()
            yield from rows(loop, StorageSettings(server.endpoint_url, None, "path"), short)

    return measure


def _saving(loop: training.Training, settings: StorageSettings, short: bool) -> Iterator[Row]:
    size = payload(loop.state().values())
    megabytes, enough = f"{size / 1e6:.0f}", size >= SMALLEST_STATE
    yield Row("state in MB", megabytes, f"at least {SMALLEST_STATE / 1e6:.0f}", enough)
    with Storage(settings) as storage:
        store = CheckpointStore(storage, f"s3://{BUCKET}/run")
        store.claim()
        yield from _saves(loop, store, settings, 1 if short else ROUNDS)


def _saves(
    loop: training.Training, store: CheckpointStore, settings: StorageSettings, rounds: int
) -> Iterator[Row]:
    listener = RecordingListener()
    durable = listener.seconds
    quiet, foreground, background = [], [], []
    uploads = UploadProcess(settings)
    with BackgroundSaver(store, uploads, keep=1, listener=listener) as saver:
        saver.prepare(loop.state())
        training.quiet_step(loop)
        first = training.in_the_background(loop, saver, durable)
        for _ in range(rounds):
            quiet.append(training.quiet_step(loop))
            background.append(training.in_the_background(loop, saver, durable))
            quiet.append(training.quiet_step(loop))
            foreground.append(training.in_the_foreground(loop, saver))
    waited = median(cost.blocked for cost in foreground)
    blocked = median(cost.blocked for cost in background)
    goal = 0.05 if torch.cuda.is_available() else 0.20
    yield _predicted("save in the foreground: loop blocked, s", "2.5", f"{waited:.3f}")
    yield _predicted(
        "first save in the background: loop blocked, s", "0.25", f"{first.blocked:.3f}"
    )
    yield _predicted("later ones: loop blocked, s", "0.10", f"{blocked:.3f}")
    yield _judged("blocked, first / foreground", "0.10", first.blocked / waited, at_most=goal)
    yield _judged("blocked, later / foreground", "0.04", blocked / waited, at_most=goal)
    slowdown = median(s for cost in background for s in cost.steps) / median(quiet)
    yield _predicted("step during an upload / without", "1.3", f"{slowdown:.2f}")
    later = median(cost.durable for cost in background)
    yield _predicted("until durable, background / foreground", "1.8", f"{later / waited:.2f}")


def _shares(loop: training.Training, settings: StorageSettings, _short: bool) -> Iterator[Row]:
    with Storage(settings) as storage:
        yield from _bytes_of_ranks(loop, storage)


def _bytes_of_ranks(loop: training.Training, storage: Storage) -> Iterator[Row]:
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


def _goodput(loop: training.Training, settings: StorageSettings, short: bool) -> Iterator[Row]:
    tensors = loop.state()
    with Storage(settings) as storage:
        staging = Staging(CheckpointStore(storage, f"s3://{BUCKET}/run").layouts(tensors))
    staging.fill(tensors)
    staging.wait()
    assert settings.endpoint_url is not None
    rounds, tunings = (1, goodput.TUNINGS[:1]) if short else (ROUNDS, goodput.TUNINGS)
    megabytes = sum(shard.layout.size for shard in staging.shards) / 1e6
    raw = goodput.raw_seconds(settings.endpoint_url, BUCKET, staging, rounds, tunings)
    own = goodput.upload_seconds(settings, staging, f"s3://{BUCKET}/own", rounds)
    if not short:  # again afterwards, as servers slow down while they fill up
        raw += goodput.raw_seconds(settings.endpoint_url, BUCKET, staging, rounds, tunings)
    staging.close()
    raw_rate, own_rate = f"{megabytes / median(raw):.0f}", f"{megabytes / median(own):.0f}"
    yield _predicted("boto3's transfer manager, best tuning, MB/s", "200", raw_rate)
    yield _predicted("own uploads, MB/s", "170", own_rate)
    speed = median(raw) / median(own)
    yield Row("own / boto3's", f"{speed:.2f} (predicted 0.85)", "at least 0.90", speed >= 0.9)


def _predicted(name: str, predicted: str, measured: str) -> Row:
    return Row(name, f"{measured} (predicted {predicted})")


def _judged(name: str, predicted: str, value: float, at_most: float) -> Row:
    measured = f"{value:.4f} (predicted {predicted})"
    return Row(name, measured, f"at most {at_most:.2f}", value <= at_most)


MEASUREMENTS: dict[str, Measurement] = {
    "saving": _on_a_server(_saving),
    "shares": _on_a_server(_shares),
    "goodput": _on_a_server(_goodput),
}

if __name__ == "__main__":
    sys.exit(main(MEASUREMENTS, __doc__))
