"""How fast shards reach S3, against the best that boto3's own multipart client does there."""

import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from dreambooth_storage import StorageSettings
from dreambooth_storage.upload.process import UploadProcess
from dreambooth_storage.upload.worker import NICENESS

# The process that is spawned below would import torch for it.
if TYPE_CHECKING:
    from dreambooth_trainer.checkpoint.staging import Staging

MIB = 2**20
TUNINGS = list(product((2, 4, 8, 16), (8 * MIB, 16 * MIB, 32 * MIB)))
"""Parts at once, and bytes of a part."""
_spawn = multiprocessing.get_context("spawn")


def upload_seconds(
    settings: StorageSettings, staging: "Staging", prefix: str, rounds: int
) -> list[float]:
    """Seconds to store all staged shards, once the process is up."""
    uploads = UploadProcess(settings)
    uploads.set_descriptors([shard.descriptor for shard in staging.shards])
    try:
        store = partial(
            uploads.upload,
            [(shard.descriptor, f"{prefix}/{shard.layout.name}") for shard in staging.shards],
        )
        store()
        return [_timed(store) for _ in range(rounds)]
    finally:
        uploads.close()


def raw_seconds(
    endpoint: str, bucket: str, staging: "Staging", rounds: int, tunings: list[tuple[int, int]]
) -> list[float]:
    """Seconds of boto3's transfer manager with its best tuning, in a process as nice as ours."""
    paths = [f"/proc/{os.getpid()}/fd/{shard.descriptor}" for shard in staging.shards]
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_raw, args=(endpoint, bucket, paths, rounds, tunings, theirs))
    process.start()
    theirs.close()
    found: list[float] = ours.recv()
    process.join()
    return found


def _raw(
    endpoint: str,
    bucket: str,
    paths: list[str],
    rounds: int,
    tunings: list[tuple[int, int]],
    answer: Any,
) -> None:
    os.nice(NICENESS)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            max_pool_connections=32,
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
        ),
    )

    def store(tuning: tuple[int, int]) -> None:
        parts, size = tuning
        config = TransferConfig(
            multipart_threshold=size, multipart_chunksize=size, max_concurrency=parts
        )
        for number, path in enumerate(paths):
            client.upload_file(path, bucket, f"raw/{number}", Config=config)

    best = min(tunings, key=lambda tuning: _timed(partial(store, tuning)))
    answer.send([_timed(partial(store, best)) for _ in range(rounds)])


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
