"""What a network and a loaded server do to requests: real HTTP, broken on its way by a proxy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreambooth_storage import (
    AccessDeniedError,
    AlreadyExistsError,
    ChecksumMismatchError,
    NullObserver,
    ObjectNotFoundError,
    Storage,
    StorageSettings,
    StorageUnavailableError,
    TransferPolicy,
)
from dreambooth_storage.s3.client import S3Client
from dreambooth_storage.uri import parse
from tests.faulty_s3 import Fault, FaultyS3, always, times

PART = 5 * 1024 * 1024
POLICY = TransferPolicy(attempts=4, base_delay=0.01, max_delay=0.05, part_size=PART)


class Failures(NullObserver):
    """A TransferObserver that keeps the error codes."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    def failed(self, operation: str, error_code: str) -> None:
        self.codes.append(error_code)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_endpoint) as server:
        yield server


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def storage(proxy: FaultyS3, s3_env: dict[str, str], failures: Failures) -> Iterator[Storage]:
    with Storage(StorageSettings(proxy.url), failures, POLICY) as opened:
        yield opened


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("500", "InternalError"),
        ("503", "SlowDown"),
        ("429", "TooManyRequests"),
        ("reset", "ConnectionClosed"),
        ("truncate", "IncompleteRead"),
    ],
)
def test_a_read_survives(
    storage: Storage, proxy: FaultyS3, failures: Failures, bucket: str, fault: Fault, code: str
) -> None:
    data = noise(100_000)
    storage.write(f"s3://{bucket}/x", data)
    proxy.set_rules(times(fault, fault))
    assert storage.read(f"s3://{bucket}/x") == data
    assert failures.codes == [code] * 2


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "lost"])
def test_every_other_operation_survives(
    storage: Storage, proxy: FaultyS3, failures: Failures, bucket: str, fault: Fault
) -> None:
    uri = f"s3://{bucket}/folder/x"
    operations: list[Callable[[], object]] = [
        lambda: storage.write(uri, b"content"),
        lambda: storage.list(f"s3://{bucket}/folder"),
        lambda: storage.exists(uri),
        lambda: storage.delete([uri]),
    ]
    for operation in operations:
        proxy.set_rules(times(fault))
        operation()
    assert len(failures.codes) == len(operations)
    assert storage.list(f"s3://{bucket}/folder") == []


@pytest.mark.parametrize("fault", ["503", "reset", "truncate"])
def test_one_broken_range_is_read_again_alone(
    storage: Storage, proxy: FaultyS3, bucket: str, tmp_path: Path, fault: Fault
) -> None:
    data = noise(3 * PART + 7)
    storage.write(f"s3://{bucket}/x", data)
    for read in (
        lambda: storage.read(f"s3://{bucket}/x"),
        lambda: storage.download(f"s3://{bucket}/x", tmp_path / "x"),
    ):
        proxy.requests.clear()
        proxy.set_rules(times(fault))
        read()
        assert len(proxy.requests) == 4 + 1
    assert storage.read(f"s3://{bucket}/x") == data == (tmp_path / "x").read_bytes()


@pytest.mark.parametrize("fault", ["503", "reset", "lost"])
def test_one_broken_part_is_written_again_alone(
    storage: Storage, proxy: FaultyS3, bucket: str, fault: Fault
) -> None:
    data = noise(3 * PART + 7)
    proxy.set_rules(times(fault, path="partNumber=2"))
    storage.write(f"s3://{bucket}/x", data)
    assert sum("partNumber=" in request.target for request in proxy.requests) == 4 + 1
    assert storage.read(f"s3://{bucket}/x") == data


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_conditional_write_whose_answer_got_lost_has_succeeded(
    storage: Storage, proxy: FaultyS3, bucket: str, size: int
) -> None:
    """The repetition finds an object in its place: its own."""
    uri, data = f"s3://{bucket}/x", noise(size)
    last_request = ("PUT", "POST")[size > PART]
    proxy.set_rules(times("lost", method=last_request, path="uploadId|/x$|/x[?]x-id"))
    storage.write(uri, data, only_if_absent=True)
    with pytest.raises(AlreadyExistsError):
        storage.write(uri, data, only_if_absent=True)
    assert storage.read(uri) == data


def test_another_writers_equal_object_is_not_taken_for_ones_own(
    storage: Storage, proxy: FaultyS3, bucket: str
) -> None:
    storage.write(f"s3://{bucket}/x", b"same")
    proxy.set_rules(times("reset", method="PUT"))
    with pytest.raises(AlreadyExistsError):
        storage.write(f"s3://{bucket}/x", b"same", only_if_absent=True)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncate"])
def test_retries_stop(storage: Storage, proxy: FaultyS3, bucket: str, fault: Fault) -> None:
    uri = f"s3://{bucket}/x"
    storage.write(uri, noise(1000))
    proxy.requests.clear()
    proxy.set_rules(always(fault))
    with pytest.raises(
        StorageUnavailableError, match=r"^spec.output: .*/x is not available from http"
    ) as said:
        storage.read(uri, field="spec.output")
    asked = [(request.method, request.target) for request in proxy.requests]
    assert asked == [("GET", f"/{bucket}/x")] * POLICY.attempts
    assert "check the server's health and load" in str(said.value)


def test_what_cannot_get_better_is_not_repeated(
    storage: Storage, proxy: FaultyS3, bucket: str
) -> None:
    proxy.set_rules(times("denied"))
    with pytest.raises(AccessDeniedError):
        storage.read(f"s3://{bucket}/x")
    with pytest.raises(ObjectNotFoundError):
        storage.read(f"s3://{bucket}/x")
    assert len(proxy.requests) == 2


def test_a_failed_upload_leaves_no_parts_behind(
    storage: Storage, proxy: FaultyS3, bucket: str
) -> None:
    proxy.set_rules(always("503", path="partNumber=2"))
    with pytest.raises(StorageUnavailableError):
        storage.write(f"s3://{bucket}/x", noise(3 * PART))
    assert proxy.requests[-1].method == "DELETE"
    assert "uploadId=" in proxy.requests[-1].target
    assert not storage.exists(f"s3://{bucket}/x")


def test_content_that_was_damaged_on_its_way_is_fetched_again(
    storage: Storage, proxy: FaultyS3, failures: Failures, bucket: str
) -> None:
    uri, data = f"s3://{bucket}/x", noise(1000)
    storage.write(uri, data)
    proxy.set_rules(times("corrupt"))
    assert storage.read(uri) == data
    assert failures.codes == ["ChecksumMismatch"]
    proxy.set_rules(times(*["corrupt"] * 3))
    with pytest.raises(ChecksumMismatchError, match="is damaged"):
        storage.read(uri)


def test_an_object_replaced_while_it_is_read_is_never_a_mixture(
    storage: Storage, proxy: FaultyS3, failures: Failures, bucket: str, s3_endpoint: str
) -> None:
    uri, old, new = f"s3://{bucket}/x", noise(3 * PART), noise(3 * PART + 1)
    storage.write(uri, old)
    gets = 0

    def replace_after_the_first_range(method: str, target: str) -> None:
        nonlocal gets
        gets += 1
        if gets == 2:
            with Storage(StorageSettings(s3_endpoint)) as other:
                other.write(uri, new)

    proxy.set_rules(replace_after_the_first_range)
    assert storage.read(uri) == new
    assert failures.codes == ["ObjectChanged"]


def test_waiting_grows_and_is_random(
    s3_env: dict[str, str], failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("dreambooth_storage.s3.client.time.sleep", waits.append)
    policy = TransferPolicy(attempts=5, base_delay=1.0, max_delay=6.0)
    client = S3Client(StorageSettings("http://127.0.0.1:1"), policy, failures)

    def request(_: object) -> None:
        raise ConnectionResetError

    for _ in range(100):
        with pytest.raises(StorageUnavailableError, match="the connection broke"):
            client.call("read", parse("s3://bucket/x"), request)
    client.close()
    for number, longest in enumerate([1.0, 2.0, 4.0, 6.0]):
        each = waits[number::4]
        assert len(set(each)) == 100
        assert 0 <= min(each) < 0.2 * longest
        assert 0.8 * longest < max(each) <= longest


def test_an_answer_that_never_comes_is_given_up_and_asked_for_again(
    proxy: FaultyS3, bucket: str, failures: Failures
) -> None:
    policy = TransferPolicy(base_delay=0.01, read_timeout=0.5)
    with Storage(StorageSettings(proxy.url), failures, policy) as storage:
        storage.write(f"s3://{bucket}/x", b"content")
        failures.codes.clear()
        proxy.set_rules(times("hang"))
        assert storage.read(f"s3://{bucket}/x") == b"content"
    assert "ReadTimeout" in failures.codes
