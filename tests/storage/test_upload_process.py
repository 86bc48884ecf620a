"""The process that uploads, with real files, memory and S3."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreambooth_storage import NullObserver, Storage, StorageError, StorageSettings, TransferPolicy
from dreambooth_storage.upload.process import UploadProcess

MIB = 2**20
TIMEOUT_SECONDS = 60.0


class Recorder(NullObserver):
    """A TransferObserver that remembers."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, int]] = []
        self.failures: list[str] = []

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        self.moved.append((operation, size))

    def failed(self, operation: str, error_code: str) -> None:
        self.failures.append(error_code)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def uploads(s3_endpoint: str, bucket: str, recorder: Recorder) -> Iterator[UploadProcess]:
    policy = TransferPolicy(part_size=5 * MIB)
    uploads = UploadProcess(StorageSettings(s3_endpoint, None, "path"), recorder, policy)
    yield uploads
    uploads.close()


def in_memory(data: bytes) -> int:
    """The descriptor of an anonymous file."""
    descriptor = os.memfd_create("test")
    os.write(descriptor, data)
    return descriptor


def test_memory_without_a_name_is_uploaded_in_parts(
    uploads: UploadProcess, recorder: Recorder, s3_endpoint: str, bucket: str
) -> None:
    contents = [os.urandom(11 * MIB), b"", b"small"]
    descriptors = [in_memory(data) for data in contents]
    uploads.set_descriptors(descriptors)
    uris = [f"s3://{bucket}/{number}" for number in range(3)]
    beats: list[int] = []
    written = uploads.upload(list(zip(descriptors, uris, strict=True)), lambda: beats.append(1))
    assert [(w.uri, w.size, w.sha256) for w in written] == [
        (uri, len(data), hashlib.sha256(data).hexdigest())
        for uri, data in zip(uris, contents, strict=True)
    ]
    assert recorder.moved == [("write", len(data)) for data in contents]
    assert len(beats) >= 5  # each part, and more
    storage = Storage(StorageSettings(s3_endpoint, None, "path"))
    assert [storage.read(uri) for uri in uris] == contents
    os.pwrite(descriptors[2], b"other", 0)
    uploads.upload([(descriptors[2], uris[2])])
    assert storage.read(uris[2]) == b"other"


def test_an_error_is_that_of_storage(uploads: UploadProcess, recorder: Recorder) -> None:
    descriptor = in_memory(b"data")
    uploads.set_descriptors([descriptor])
    with pytest.raises(StorageError, match=r"spec.output: s3://nowhere/x .* does not exist"):
        uploads.upload([(descriptor, "s3://nowhere/x")])
    assert recorder.failures == ["NoSuchBucket"]


def test_a_file_that_it_does_not_hold_is_an_error_too(uploads: UploadProcess, bucket: str) -> None:
    with pytest.raises(StorageError, match=r"cannot be uploaded from .*: No such file"):
        uploads.upload([(999, f"s3://{bucket}/x")])


OWNER = """
import os, sys, time
from dreambooth_storage import StorageSettings
from dreambooth_storage.upload.process import UploadProcess
uploads = UploadProcess(StorageSettings())
uploads.start()
print(uploads.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_ends_with_its_parent_however_that_ends() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        pid = int(owner.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
