"""The checkpoint store on a real S3 server: what depends on its conditional puts and listings."""

from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
import torch
from botocore.config import Config

from dreambooth_storage import Storage, StorageSettings, join
from dreambooth_trainer.checkpoint import CheckpointStore
from dreambooth_trainer.process.errors import FencedError
from tests.trainer.checkpoint_saves import rank_of, save

PATHS = Config(s3={"addressing_style": "path"})
STATE = {"weight": torch.arange(300_000.0), "step": torch.tensor(3)}


@pytest.fixture
def storage(s3_endpoint: str) -> Storage:
    return Storage(StorageSettings(endpoint_url=s3_endpoint, addressing_style="path"))


def open_store(storage: Storage, bucket: str, attempt: int) -> CheckpointStore:
    store = CheckpointStore(storage, f"s3://{bucket}/run/checkpoints", rank_of(attempt))
    store.claim()
    return store


def test_the_newest_whole_checkpoint_is_restored(storage: Storage, bucket: str) -> None:
    store = open_store(storage, bucket, 0)
    for step in (10, 20, 30):
        save(storage, store, step, STATE, keep=2)
    newest, _ = store.checkpoints()
    assert newest.step == 30
    storage.write(join(newest.uri, newest.manifest.shards[0].name), b"x" * 1000)
    restored = open_store(storage, bucket, 1).restore()
    assert restored is not None
    tensors, manifest = restored
    assert manifest.step == 20
    assert torch.equal(tensors["weight"], STATE["weight"])


def test_of_attempts_that_claim_at_once_the_last_one_owns(storage: Storage, bucket: str) -> None:
    def claim(attempt: int) -> CheckpointStore | None:
        try:
            return open_store(storage, bucket, attempt)
        except FencedError:
            return None

    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(claim, range(4)))
    *others, last = stores
    assert last is not None
    save(storage, last, 10, STATE)
    for other in others:
        if other is not None:
            with pytest.raises(FencedError):
                save(storage, other, 20, STATE)
            with pytest.raises(FencedError):
                other.check_owner()
    assert [ref.step for ref in last.checkpoints()] == [10]


def test_parts_of_uploads_that_a_dead_attempt_never_ended_are_freed(
    storage: Storage, bucket: str, s3_endpoint: str
) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint, config=PATHS)
    folders = {
        "run/checkpoints/step-00000010-claim-0000": False,  # an earlier attempt's
        "run/checkpoints/step-00000010-claim-0009": True,  # a later one's
        "elsewhere/step-00000010-claim-0000": True,
    }
    open_store(storage, bucket, 0)
    for folder in folders:
        upload = {"Bucket": bucket, "Key": f"{folder}/shard-00000-of-00001.safetensors"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        client.upload_part(**upload, PartNumber=1, Body=b"half a shard")
    store = open_store(storage, bucket, 1)
    save(storage, store, 20, STATE, keep=1)
    left = {u["Key"] for u in client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())}
    assert {key.rpartition("/")[0] for key in left} == {f for f, stays in folders.items() if stays}
