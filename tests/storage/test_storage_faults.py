"""Answers that are damaged, refused, late or wrong, from a real S3 server behind a faulty proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest

from dreambooth_storage import (
    AccessDeniedError,
    AlreadyExistsError,
    Storage,
    StorageError,
    StorageFullError,
    StorageSettings,
    StorageUnavailableError,
    TransferPolicy,
)
from dreambooth_trainer.process.errors import StorageDeniedError, TrainerError
from dreambooth_trainer.process.exit_status import exit_code_of
from tests.faulty_s3 import Fault, FaultyS3, always, sometimes, times

Serve = Callable[[type[BaseHTTPRequestHandler]], str]
POLICY = TransferPolicy(attempts=4, base_delay=0.01, max_delay=0.05, read_timeout=3)
BROKEN: tuple[Fault, ...] = (
    "500", "503", "429", "reset", "lost", "cut", "truncate", "shorten", "corrupt-request",
    "shuffle",
)  # fmt: skip


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_endpoint, seconds=1.0) as server:
        yield server


@pytest.fixture
def storage(proxy: FaultyS3, s3_env: dict[str, str]) -> Iterator[Storage]:
    with Storage(StorageSettings(proxy.url), policy=POLICY) as opened:
        yield opened


@pytest.fixture
def theirs(s3_endpoint: str, bucket: str) -> Iterator[Callable[[str, bytes], str]]:
    """Puts an object as other programs do, without this project's sha256; returns its URI."""
    client = boto3.client("s3", endpoint_url=s3_endpoint)

    def put(key: str, data: bytes) -> str:
        client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    yield put
    client.close()


@pytest.mark.parametrize("fault", BROKEN)
def test_every_operation_survives_two_of_every_fault(
    storage: Storage, proxy: FaultyS3, bucket: str, tmp_path: Path, fault: Fault
) -> None:
    folder = f"s3://{bucket}/folder"
    uris = [f"{folder}/{name}" for name in "abc"]
    operations: list[Callable[[], object]] = [
        lambda: [storage.write(uri, uri.encode()) for uri in uris],
        lambda: storage.list(folder),
        lambda: storage.exists(uris[0]),
        lambda: storage.download_tree(folder, tmp_path / "tree"),
        lambda: storage.delete(uris[:1]),
    ]
    for operation in operations:
        proxy.set_rules(times(fault, fault))
        operation()
    proxy.set_rules()
    assert len(proxy.faults()) >= len(operations)
    assert [each.uri for each in storage.list(folder)] == uris[1:]
    assert [storage.read(uri).decode() for uri in uris[1:]] == uris[1:]
    assert [path.name for path in sorted((tmp_path / "tree").iterdir())] == ["a", "b", "c"]


def test_a_listing_in_any_order_is_sorted(storage: Storage, proxy: FaultyS3, bucket: str) -> None:
    for name in "abc":
        storage.write(f"s3://{bucket}/folder/{name}", b"x")
    proxy.set_rules(always("shuffle"))
    assert [each.relative for each in storage.list(f"s3://{bucket}/folder")] == ["a", "b", "c"]
    assert proxy.faults() == ["shuffle"]


def test_damage_on_the_way_is_noticed_in_what_other_programs_have_put_there(
    storage: Storage, proxy: FaultyS3, theirs: Callable[[str, bytes], str], tmp_path: Path
) -> None:
    uri = theirs("image.png", b"content of an image")
    for fault in ("corrupt", "shorten"):
        proxy.set_rules(times(fault))
        assert storage.read(uri) == b"content of an image"
        proxy.set_rules(times(fault))
        storage.download(uri, tmp_path / fault)
        assert (tmp_path / fault).read_bytes() == b"content of an image"
    assert len(proxy.faults()) == 4


def test_a_server_whose_etags_are_no_md5_is_believed_when_it_says_the_same_twice(
    serve: Serve, s3_env: dict[str, str]
) -> None:
    class Odd(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_: object) -> None:
            pass

    with Storage(StorageSettings(serve(Odd)), policy=POLICY) as storage:
        assert storage.read("s3://bucket/x") == b"content"


@pytest.mark.parametrize(
    ("fault", "kind", "code", "words"),
    [
        (
            "denied",
            AccessDeniedError,
            StorageDeniedError.exit_code,
            "check the keys .* may read, list and write in",
        ),
        (
            "expired",
            AccessDeniedError,
            StorageDeniedError.exit_code,
            r"is refused by http.* \(ExpiredToken\)",
        ),
        ("full", StorageFullError, TrainerError.exit_code, "has no room left .*; make room there"),
        ("quota", StorageFullError, TrainerError.exit_code, "has no room left .*raise its quota"),
        (
            "503",
            StorageUnavailableError,
            TrainerError.exit_code,
            "check the server's health and load",
        ),
    ],
)
def test_a_refused_write_says_why_and_replaces_nothing(
    storage: Storage,
    proxy: FaultyS3,
    bucket: str,
    fault: Fault,
    kind: type[StorageError],
    code: int,
    words: str,
) -> None:
    uri = f"s3://{bucket}/x"
    storage.write(uri, b"durable")
    proxy.set_rules(always(fault, method="PUT|POST"))
    with pytest.raises(kind, match=f"^spec.output: {uri} .*{words}") as raised:
        storage.write(uri, b"newer")
    assert exit_code_of(raised.value) == code
    assert storage.read(uri) == b"durable"


def test_a_write_that_is_refused_for_an_object_that_is_not_there_is_made_again(
    storage: Storage, proxy: FaultyS3, bucket: str
) -> None:
    uri = f"s3://{bucket}/x"
    proxy.set_rules(times("exists", "exists", method="PUT"))
    storage.write(uri, b"first", only_if_absent=True)
    assert storage.read(uri) == b"first"
    with pytest.raises(AlreadyExistsError):
        storage.write(uri, b"second", only_if_absent=True)


def test_a_server_that_never_stops_saying_so_is_unavailable(
    storage: Storage, proxy: FaultyS3, bucket: str
) -> None:
    proxy.set_rules(always("exists", method="PUT"))
    with pytest.raises(
        StorageUnavailableError,
        match="exists already according to writes, and does not exist according to reads",
    ):
        storage.write(f"s3://{bucket}/x", b"first", only_if_absent=True)


def test_a_hang_costs_one_time_out(storage: Storage, proxy: FaultyS3, bucket: str) -> None:
    proxy.set_rules(times("hang"))
    began = time.monotonic()
    storage.write(f"s3://{bucket}/x", b"content")
    assert POLICY.read_timeout <= time.monotonic() - began < 3 * POLICY.read_timeout


def test_slow_answers_are_waited_for(storage: Storage, proxy: FaultyS3, bucket: str) -> None:
    proxy.set_rules(always("slow"))
    storage.write(f"s3://{bucket}/x", b"content")
    assert storage.read(f"s3://{bucket}/x") == b"content"
    assert len(proxy.requests) == 2


def test_a_thousand_requests_with_every_fifth_failing_lose_nothing(
    s3_env: dict[str, str], proxy: FaultyS3, bucket: str
) -> None:
    uris = [f"s3://{bucket}/many/{number:03}" for number in range(200)]
    patient = TransferPolicy(base_delay=0.001, max_delay=0.01)
    faults: list[Fault] = ["500", "503", "reset", "lost", "cut", "truncate"]
    proxy.set_rules(sometimes(faults, 0.2, seed=7))
    with Storage(StorageSettings(proxy.url), policy=patient) as storage:
        for uri in uris:
            storage.write(uri, uri.encode(), only_if_absent=True)
        assert [each.uri for each in storage.list(f"s3://{bucket}/many")] == uris
        assert [data.decode() for _, data in storage.read_many(uris)] == uris
        storage.delete(uris)
        assert storage.list(f"s3://{bucket}/many") == []
    assert len(proxy.faults()) > 100


class Listing(BaseHTTPRequestHandler):
    """A server that lists what no honest one would; its objects hold b"x"."""

    keys: tuple[str, ...] = ()
    more = ""

    def do_GET(self) -> None:
        listing = "list-type" in self.path
        body = self.page() if listing else b"x"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def page(self) -> bytes:
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>1</Size>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key in self.keys
        )
        head = "<ListBucketResult><Name>bucket</Name><EncodingType>url</EncodingType>"
        return f"{head}{self.more}{entries}</ListBucketResult>".encode()

    def log_message(self, *_: object) -> None:
        pass


HOSTILE = {
    "above the folder": "../../escaped",
    "above, later": "a/../../../escaped",
    "absolute": "/escaped",
    "a line break": "a\nspec.output: all is well",
    "a terminal's escape": "a\x1b[2J",
    "a zero byte": "a\0b",
    "a long name": "n" * 256,
    "a long name in bytes": "ä" * 128,
    "a file that is a folder": "config.json/x",
    "a long path": "/".join(["d" * 200] * 30),
    "two dots": "tokenizer/..",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_refused_and_nothing_is_written_beside_the_folder(
    serve: Serve, s3_env: dict[str, str], tmp_path: Path, name: str
) -> None:
    class Hostile(Listing):
        keys = ("tree/config.json", f"tree/{name}")

    target = tmp_path / "one" / "two" / "target"
    with (
        Storage(StorageSettings(serve(Hostile)), policy=POLICY) as storage,
        pytest.raises(StorageError) as raised,
    ):
        storage.download_tree("s3://bucket/tree", target, field="spec.model.source")
    assert str(raised.value).startswith("spec.model.source: s3://bucket/tree")
    assert str(raised.value).isprintable()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(target) for path in written)


def test_objects_that_are_not_below_the_prefix_are_passed_over(
    serve: Serve, s3_env: dict[str, str]
) -> None:
    class Wide(Listing):
        keys = ("tree/a", "elsewhere/b", "trees/c")

    with Storage(StorageSettings(serve(Wide)), policy=POLICY) as storage:
        assert [each.relative for each in storage.list("s3://bucket/tree")] == ["a"]


@pytest.mark.parametrize("token", ["", "<NextContinuationToken>again</NextContinuationToken>"])
def test_a_listing_that_never_ends_is_given_up(
    serve: Serve, s3_env: dict[str, str], token: str
) -> None:
    class Endless(Listing):
        keys = ("tree/a",)
        more = f"<IsTruncated>true</IsTruncated>{token}"

    with (
        Storage(StorageSettings(serve(Endless)), policy=POLICY) as storage,
        pytest.raises(StorageUnavailableError, match="has a listing that never ends"),
    ):
        storage.list("s3://bucket/tree")
