"""Public buckets are read without credentials; all others with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dreambooth_storage import (
    AccessDeniedError,
    AccessKey,
    Storage,
    StorageError,
    StorageSettings,
    TransferPolicy,
)
from tests.conftest import PUBLIC_BUCKET, TEAM_BUCKET, TEAM_KEYS

MUG = "mug/0.jpg"
ONE_TRY = TransferPolicy(attempts=1)


@pytest.fixture(autouse=True)
def mugs(public_bucket: Storage) -> None:
    for bucket in (PUBLIC_BUCKET, TEAM_BUCKET):
        public_bucket.write(f"s3://{bucket}/{MUG}", b"mug")


def settings(endpoint: str, *anonymous: str) -> StorageSettings:
    return StorageSettings(endpoint, anonymous_buckets=frozenset(anonymous))


KEYS = {"none": None, "of others": TEAM_KEYS, "revoked": AccessKey("revoked", "secret")}


@pytest.fixture(params=KEYS.values(), ids=KEYS)
def visitor(
    s3_endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    """Storage of somebody whose keys, if any, do not open the public bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with Storage(
        settings(s3_endpoint, PUBLIC_BUCKET), policy=ONE_TRY, credentials=request.param
    ) as storage:
        yield storage


def test_public_bucket_is_read_whatever_the_keys(visitor: Storage, tmp_path: Path) -> None:
    assert [each.relative for each in visitor.list(f"s3://{PUBLIC_BUCKET}")] == [MUG]
    assert visitor.read(f"s3://{PUBLIC_BUCKET}/{MUG}") == b"mug"
    assert visitor.exists(f"s3://{PUBLIC_BUCKET}/{MUG}")
    visitor.download_tree(f"s3://{PUBLIC_BUCKET}/mug", tmp_path)
    assert (tmp_path / "0.jpg").read_bytes() == b"mug"


def test_keys_are_sent_to_a_bucket_that_is_not_named_as_public(s3_endpoint: str) -> None:
    storage = Storage(settings(s3_endpoint), policy=ONE_TRY, credentials=TEAM_KEYS)
    with storage, pytest.raises(AccessDeniedError, match="secretRef"):
        storage.read(f"s3://{PUBLIC_BUCKET}/{MUG}")


def test_public_and_other_buckets_in_one_job(s3_endpoint: str) -> None:
    with Storage(
        settings(s3_endpoint, PUBLIC_BUCKET), policy=ONE_TRY, credentials=TEAM_KEYS
    ) as storage:
        uris = [f"s3://{bucket}/{MUG}" for bucket in (PUBLIC_BUCKET, TEAM_BUCKET)]
        assert [data for _, data in storage.read_many(uris)] == [b"mug", b"mug"]
        storage.write(f"s3://{TEAM_BUCKET}/result", b"x")


@pytest.mark.parametrize("bucket", [PUBLIC_BUCKET, TEAM_BUCKET])
def test_refusal_of_a_public_bucket_speaks_of_no_keys(s3_endpoint: str, bucket: str) -> None:
    both = settings(s3_endpoint, PUBLIC_BUCKET, TEAM_BUCKET)
    with Storage(both, policy=ONE_TRY) as storage, pytest.raises(StorageError) as refused:
        storage.write(f"s3://{bucket}/result", b"x", field="spec.output")
    assert "allow everyone to read and list the bucket, or take it out of" in str(refused.value)
    assert "secretRef" not in str(refused.value)
