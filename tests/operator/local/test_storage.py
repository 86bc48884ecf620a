"""The storage of a local run."""

from pathlib import Path

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import storage_for
from dreambooth_storage import Storage
from tests.conftest import PUBLIC_BUCKET, TEAM_BUCKET, TEAM_KEYS


def a_job(endpoint: str | None) -> DreamBoothJob:
    storage = {"anonymousBuckets": [PUBLIC_BUCKET]} | (
        {"endpointURL": endpoint} if endpoint else {}
    )
    images = f"s3://{PUBLIC_BUCKET}/mug"
    return DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "hf://owner/model"},
                "subjects": [{"identifier": "sks", "classNoun": "mug", "images": images}],
                "output": f"s3://{TEAM_BUCKET}/out",
                "storage": storage,
            },
        }
    )


def test_public_bucket_is_read_without_the_users_keys(
    tmp_path: Path, public_bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    public_bucket.write(f"s3://{PUBLIC_BUCKET}/mug/0.jpg", b"mug")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", TEAM_KEYS.id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TEAM_KEYS.secret)
    job = a_job(public_bucket.settings.endpoint_url)
    with storage_for(job, State(tmp_path), embedded=False) as storage:
        assert storage.client.read(f"s3://{PUBLIC_BUCKET}/mug/0.jpg") == b"mug"
        storage.client.write(f"s3://{TEAM_BUCKET}/x", b"x")


def test_embedded_server_has_no_public_buckets(tmp_path: Path) -> None:
    job = a_job(None)
    with storage_for(job, State(tmp_path), embedded=True) as storage:
        assert storage.job.spec.storage.anonymous_buckets == []
        storage.client.write(f"s3://{PUBLIC_BUCKET}/mug/0.jpg", b"mug")  # as --upload does
    assert job.spec.storage.anonymous_buckets == [PUBLIC_BUCKET]
