"""Storage behaves alike on a real S3 server and on a file system."""

from __future__ import annotations

import hashlib
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import boto3
import pytest

from dreambooth_storage import (
    AlreadyExistsError,
    ChecksumMismatchError,
    EmptyPrefixError,
    NullObserver,
    ObjectNotFoundError,
    Storage,
    StorageError,
    StorageSettings,
    TransferPolicy,
    Written,
    join,
)

Serve = Callable[[type[BaseHTTPRequestHandler]], str]
PART = 5 * 1024 * 1024  # S3 allows no smaller parts
SMALL_PARTS = TransferPolicy(part_size=PART)


class Recorder(NullObserver):
    """A TransferObserver that remembers."""

    def __init__(self) -> None:
        self.progress = 0
        self.moved: list[tuple[str, int]] = []
        self.failures: list[tuple[str, str]] = []

    def progressed(self) -> None:
        self.progress += 1

    def transferred(self, operation: str, size: int, seconds: float) -> None:
        assert seconds > 0
        self.moved.append((operation, size))

    def failed(self, operation: str, error_code: str) -> None:
        self.failures.append((operation, error_code))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(params=["s3", "file"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty prefix to work below."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return f"s3://{request.getfixturevalue('bucket')}/store"


@pytest.fixture
def storage(s3_endpoint: str, s3_env: dict[str, str], recorder: Recorder) -> Iterator[Storage]:
    with Storage(StorageSettings(s3_endpoint), recorder, SMALL_PARTS) as opened:
        yield opened


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 3 * PART + 123])
def test_what_was_written_is_read_back(storage: Storage, base: str, size: int) -> None:
    uri, data = join(base, "a", "content.bin"), noise(size)
    written = storage.write(uri, data)
    assert written == Written(uri, size, hashlib.sha256(data).hexdigest())
    assert storage.read(uri) == data
    assert storage.exists(uri)


@pytest.mark.parametrize("size", [0, 1, 2 * PART + 1])
def test_files_go_up_and_come_down(storage: Storage, base: str, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "folder" / "target"
    source.write_bytes(noise(size))
    written = storage.upload(source, join(base, "x"))
    assert written == storage.write(join(base, "x"), source.read_bytes())
    storage.upload(source, join(base, "x"))
    storage.download(join(base, "x"), target, sha256=written.sha256)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("size", [0, PART, 3 * PART + 123])
def test_a_streamed_file_is_hashed_on_the_way(
    storage: Storage, base: str, tmp_path: Path, size: int
) -> None:
    uri, data, file = join(base, "streamed"), noise(size), tmp_path / "file"
    file.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert storage.stream(file, uri) == Written(uri, size, sha256)
    assert list(storage.read_many([uri], sha256={uri: sha256})) == [(uri, data)]
    with pytest.raises(ChecksumMismatchError):
        storage.read(uri, sha256="0" * 64)


def test_a_second_write_replaces_the_first(storage: Storage, base: str) -> None:
    uri = join(base, "x")
    storage.write(uri, noise(3 * PART))
    storage.write(uri, b"short")
    assert storage.read(uri) == b"short"


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_conditional_write_never_replaces(storage: Storage, base: str, size: int) -> None:
    uri, data = join(base, "x"), noise(size)
    storage.write(uri, data, only_if_absent=True)
    with pytest.raises(AlreadyExistsError, match=r"store/x exists already") as raised:
        storage.write(uri, data, only_if_absent=True)
    assert uri in str(raised.value)
    assert storage.read(uri) == data


def test_of_several_conditional_writers_one_wins(storage: Storage, base: str) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> bool:
        start.wait()
        try:
            storage.write(join(base, "x"), bytes([number]), only_if_absent=True)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert storage.read(join(base, "x")) == bytes([won.index(True)])


def test_a_listing_is_recursive_sorted_and_below_the_prefix_only(
    storage: Storage, base: str
) -> None:
    names = ["b.png", "a/2.png", "a/10.png", "a/deep/er/ä ö+%20&.png", "B.png", "a.png"]
    for name in names:
        storage.write(join(base, "in", name), name.encode())
    storage.write(join(base, "inside-out.png"), b"not below in/")
    found = storage.list(join(base, "in"))
    assert [each.relative for each in found] == sorted(names, key=str.encode)
    assert storage.list(join(base, "in") + "/") == found
    assert [storage.read(each.uri).decode() for each in found] == [e.relative for e in found]
    assert [each.size for each in found] == [len(each.relative.encode()) for each in found]
    assert all(each.modified.tzinfo is not None for each in found)
    assert storage.list(join(base, "nothing")) == []


def test_a_long_listing_is_complete(storage: Storage, bucket: str) -> None:
    def write(number: int) -> Written:
        return storage.write(f"s3://{bucket}/many/{number:04}", b"")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(1005)))  # a page has 1000
    assert [each.relative for each in storage.list(f"s3://{bucket}/many")] == [
        f"{number:04}" for number in range(1005)
    ]


def test_folder_markers_are_no_objects(storage: Storage, bucket: str, s3_endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.put_object(Bucket=bucket, Key="images/", Body=b"")
    client.close()
    assert storage.list(f"s3://{bucket}/images") == []


def test_many_are_read_in_the_order_asked_for(storage: Storage, base: str) -> None:
    contents = {join(base, str(i)): noise(1 + 997 * i, i) for i in range(40)}
    for uri, data in contents.items():
        storage.write(uri, data)
    order = sorted(contents, key=hash)
    assert list(storage.read_many(order)) == [(uri, contents[uri]) for uri in order]


def test_prefetch_is_bounded_and_stops_when_nobody_reads_on(
    storage: Storage, base: str, recorder: Recorder
) -> None:
    for number in range(30):
        storage.write(join(base, f"{number:02}"), b"x")
    with_end = storage.read_many([each.uri for each in storage.list(base)])
    next(with_end)
    with_end.close()  # type: ignore[attr-defined]
    storage.close()
    assert sum(operation == "read" for operation, _ in recorder.moved) <= 1 + 8


def test_reading_many_raises_at_the_missing_one(storage: Storage, base: str) -> None:
    storage.write(join(base, "0"), b"here")
    reading = storage.read_many([join(base, "0"), join(base, "1")], field="spec.prior.images")
    assert next(reading)[1] == b"here"
    with pytest.raises(ObjectNotFoundError, match=r"^spec.prior.images: .*/store/1 does not exist"):
        next(reading)


def test_trees_go_up_and_come_down(storage: Storage, base: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(20):
        path = source / f"d{number % 3}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number * 100_000, number))
    written = storage.upload_tree(source, base)
    assert len(written) == 20
    files = storage.download_tree(base, target)
    assert [join(base, file.relative_to(target).as_posix()) for file in files] == [
        each.uri for each in written
    ]
    assert {p.relative_to(target): p.read_bytes() for p in target.rglob("*.bin")} == {
        p.relative_to(source): p.read_bytes() for p in source.rglob("*.bin")
    }


def test_an_empty_prefix_is_named_with_its_field(
    storage: Storage, base: str, tmp_path: Path
) -> None:
    field = "spec.subjects[0].images"
    with pytest.raises(
        EmptyPrefixError, match=r"holds no files; correct spec\.subjects\[0\]\.images"
    ):
        storage.list_nonempty(base, field=field)
    with pytest.raises(EmptyPrefixError) as raised:
        storage.download_tree(base, tmp_path / "target", field=field)
    assert str(raised.value).startswith(f"{field}: {base} ")


@pytest.mark.parametrize("key", ["tree/../../escaped", "tree//tmp/escaped"])
def test_no_object_is_written_outside_of_the_folder(
    s3_env: dict[str, str], serve: Serve, tmp_path: Path, key: str
) -> None:
    """S3 itself allows such keys; SeaweedFS does not, so a listing is served here."""

    class Listing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = (
                f"<ListBucketResult><Name>bucket</Name><Contents><Key>{key}</Key><Size>1</Size>"
                "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with (
        Storage(StorageSettings(serve(Listing))) as storage,
        pytest.raises(StorageError, match="would be written outside of its folder"),
    ):
        storage.download_tree("s3://bucket/tree", tmp_path / "target", field="spec.model.source")


def test_deleting_removes_and_forgives(storage: Storage, base: str) -> None:
    uris = [join(base, name) for name in ("a", "b", "c")]
    for uri in uris[:2]:
        storage.write(uri, b"x")
    storage.delete(uris)
    assert storage.list(base) == []
    assert not storage.exists(uris[0])


def test_a_missing_object_is_not_found(storage: Storage, base: str, tmp_path: Path) -> None:
    uri = join(base, "nowhere")
    with pytest.raises(
        ObjectNotFoundError, match=r"^spec.model.source: .*store/nowhere does not exist; \w+"
    ):
        storage.read(uri, field="spec.model.source")
    with pytest.raises(ObjectNotFoundError):
        storage.download(uri, tmp_path / "target")
    assert not storage.exists(uri)
    assert list(tmp_path.glob("target*")) == []


def test_a_wrong_sha256_leaves_no_file(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.write(join(base, "x"), b"content")
    with pytest.raises(ChecksumMismatchError, match="is damaged: its sha256 is"):
        storage.download(join(base, "x"), tmp_path / "target", sha256="0" * 64)
    assert list(tmp_path.glob("*target*")) == []


def test_content_that_changed_in_the_store_is_noticed_without_being_asked(
    storage: Storage, bucket: str, s3_endpoint: str, tmp_path: Path
) -> None:
    """S3 objects that the project wrote carry their sha256: here one is kept with other bytes."""
    uri = f"s3://{bucket}/x"
    storage.write(uri, b"what was written")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    metadata = client.head_object(Bucket=bucket, Key="x")["Metadata"]
    client.put_object(Bucket=bucket, Key="x", Body=b"what was damaged", Metadata=metadata)
    client.close()
    with pytest.raises(ChecksumMismatchError):
        storage.read(uri)
    with pytest.raises(ChecksumMismatchError):
        storage.download(uri, tmp_path / "target")


def test_objects_of_others_are_read_as_they_are(
    storage: Storage, bucket: str, s3_endpoint: str
) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.put_object(Bucket=bucket, Key="x", Body=b"theirs")
    client.close()
    assert storage.read(f"s3://{bucket}/x") == b"theirs"


def test_a_large_read_holds_its_content_once(storage: Storage, base: str) -> None:
    size = 8 * PART
    storage.write(join(base, "large"), noise(size))
    tracemalloc.start()
    try:
        data = storage.read(join(base, "large"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == size
    assert peak < 1.5 * size


def test_every_part_that_moves_is_progress(
    storage: Storage, bucket: str, recorder: Recorder
) -> None:
    storage.write(f"s3://{bucket}/x", noise(3 * PART))
    requests = 1 + 3 + 1  # begin, parts, complete
    assert recorder.progress == requests + 1


def test_the_observer_learns_of_every_byte(
    storage: Storage, base: str, recorder: Recorder, tmp_path: Path
) -> None:
    uri = join(base, "x")
    storage.write(uri, noise(3 * PART))
    storage.read(uri)
    storage.download(uri, tmp_path / "x")
    storage.list(base)
    storage.delete([uri])
    moved = [("write", 3 * PART), ("read", 3 * PART), ("read", 3 * PART), ("list", 0)]
    assert recorder.moved == [*moved, ("delete", 0)]
    assert recorder.failures == []


@pytest.mark.parametrize("uri", ["s3://", "/a/b", "file://relative", "https://host/x", "s3:///x"])
def test_what_is_no_storage_uri_is_refused(storage: Storage, uri: str) -> None:
    with pytest.raises(StorageError, match=r"^spec.output: .* is not a storage URI; write s3://"):
        storage.read(uri, field="spec.output")


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("s3://bucket", ["a", "b/c"], "s3://bucket/a/b/c"),
        ("s3://bucket/", ["/a/", "", "b"], "s3://bucket/a/b"),
        ("file:///", ["a"], "file:///a"),
        ("file:///data/x", [], "file:///data/x"),
    ],
)
def test_uris_are_joined_with_single_slashes(uri: str, parts: list[str], joined: str) -> None:
    assert join(uri, *parts) == joined


def test_an_interrupted_write_to_a_file_leaves_neither_file_nor_listing(
    storage: Storage, tmp_path: Path
) -> None:
    """A process that is killed while it writes leaves its unfinished file: it is no object."""
    store = tmp_path / "store"
    store.mkdir()
    (store / f".{'0' * 16}.unfinished").write_bytes(b"half of")
    assert storage.list(f"file://{store}") == []
    folder = store / "folder"
    folder.mkdir()
    with pytest.raises(ObjectNotFoundError, match="is a folder, not a file"):
        storage.write(f"file://{folder}", b"x")
    assert list(folder.iterdir()) == []
    assert len(list(store.iterdir())) == 2


def test_source_that_cannot_be_read_is_named(storage: Storage, base: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for upload in (storage.upload, storage.stream):
        with pytest.raises(StorageError) as raised:
            upload(absent, join(base, "x"))
        assert f"cannot be uploaded from {absent}: No such file" in str(raised.value)
        assert not isinstance(raised.value, ObjectNotFoundError)
    assert not storage.exists(join(base, "x"))


def test_target_of_a_download_is_named(storage: Storage, base: str, tmp_path: Path) -> None:
    storage.write(join(base, "x"), b"content")
    (tmp_path / "file").write_bytes(b"no folder")
    target = tmp_path / "file" / "target"
    with pytest.raises(StorageError) as raised:
        storage.download(join(base, "x"), target)
    assert f"cannot be downloaded to {target}: File exists" in str(raised.value)
    assert not isinstance(raised.value, ObjectNotFoundError)


def test_s3_has_no_broken_links(storage: Storage, bucket: str) -> None:
    assert storage.broken_links(f"s3://{bucket}") == []


def test_folder_with_a_dangling_link_is_not_uploaded_in_part(
    storage: Storage, base: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").symlink_to("absent.jpg")
    (photos / ".#1.jpg").symlink_to("me@host.1234")  # an editor's lock
    with pytest.raises(StorageError, match=r"photos/1\.jpg: No such file or directory"):
        storage.upload_tree(photos, base)
