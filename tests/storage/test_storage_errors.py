"""What is wrong with storage is said in the user's words, and never with a credential."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.exceptions as boto
import pytest

from dreambooth_storage import (
    AccessDeniedError,
    NoSuchBucketError,
    ObjectNotFoundError,
    Storage,
    StorageError,
    StorageSettings,
    StorageUnavailableError,
    TransferPolicy,
    WrongEndpointError,
    without_userinfo,
)
from dreambooth_storage.s3.errors import translate
from dreambooth_storage.s3.write import part_size
from dreambooth_storage.uri import parse

Serve = Callable[[type[BaseHTTPRequestHandler]], str]
QUICK = TransferPolicy(attempts=2, base_delay=0.01, connect_timeout=2, read_timeout=2)
FIELD = "spec.subjects[0].images"


def opened(endpoint: str) -> Storage:
    return Storage(StorageSettings(endpoint), policy=QUICK)


def messages(storage: Storage, uri: str, kind: type[StorageError]) -> list[str]:
    """The messages of a listing, a read, a write and a question about `uri`, all of one kind."""
    said = []
    with storage:
        for operation in (
            lambda: storage.list(uri, field=FIELD),
            lambda: storage.read(uri, field=FIELD),
            lambda: storage.exists(uri, field=FIELD),
            lambda: storage.write(uri, b"x", field=FIELD),
        ):
            with pytest.raises(kind) as raised:
                operation()
            assert type(raised.value) is kind
            said.append(str(raised.value))
    assert all(message.startswith(f"{FIELD}: {uri} ") for message in said)
    return said


def test_a_missing_bucket(s3_endpoint: str, s3_env: dict[str, str]) -> None:
    for message in messages(opened(s3_endpoint), "s3://no-such-bucket/cat", NoSuchBucketError):
        assert "is in the bucket no-such-bucket, which does not exist at http" in message
        assert "; create the bucket" in message


def test_an_impossible_bucket_name(s3_endpoint: str, s3_env: dict[str, str]) -> None:
    for message in messages(opened(s3_endpoint), "s3://my images/cat", NoSuchBucketError):
        assert "has no valid bucket name (my images)" in message


@pytest.mark.parametrize("name", ["..", "a..b", "-a", "bücket", "a%b", "a\nb", "a" * 256])
def test_a_bucket_name_that_no_server_can_have(name: str) -> None:
    with opened("http://127.0.0.1:1") as storage, pytest.raises(NoSuchBucketError) as raised:
        storage.list(f"s3://{name}/x")
    assert "has no valid bucket name" in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_bucket_name_that_the_server_refuses(s3_endpoint: str, s3_env: dict[str, str]) -> None:
    """Servers disagree on names, so what one may accept is asked for."""
    for message in messages(opened(s3_endpoint), "s3://My_Bucket/cat", NoSuchBucketError):
        assert "create the bucket" in message or "correct the URI" in message


def test_a_bucket_alone_is_no_object(s3_endpoint: str, s3_env: dict[str, str]) -> None:
    with opened(s3_endpoint) as storage:
        for operation in (storage.read, storage.exists):
            with pytest.raises(ObjectNotFoundError, match="cannot be the name of an object"):
                operation("s3://bucket")


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys(
    s3_endpoint: str,
    bucket: str,
    name: str,
    s3_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, "wrongwrongwrong")
    for message in messages(opened(s3_endpoint), f"s3://{bucket}/cat", AccessDeniedError):
        assert "spec.storage.credentials.secretRef" in message
        assert "wrongwrong" not in message
        assert s3_env["AWS_ACCESS_KEY_ID"] not in message
        assert s3_env["AWS_SECRET_ACCESS_KEY"] not in message


def test_a_server_that_repeats_the_key_is_not_quoted(serve: Serve, s3_env: dict[str, str]) -> None:
    class Talkative(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = s3_env["AWS_ACCESS_KEY_ID"]
            code = "<Code>InvalidAccessKeyId</Code>"
            page = f"<Error>{code}<Message>No such key: {key}</Message></Error>".encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(403)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    for message in messages(opened(serve(Talkative)), "s3://bucket/cat", AccessDeniedError):
        assert "(InvalidAccessKeyId); check the keys" in message
        assert s3_env["AWS_ACCESS_KEY_ID"] not in message


def test_no_keys_at_all(
    s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for message in messages(opened(s3_endpoint), f"s3://{bucket}/cat", AccessDeniedError):
        assert "needs credentials, and none were found; check the keys" in message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("end", ["\n", " ", "\r\n"])
def test_a_key_with_a_line_break_is_refused_before_any_request(
    s3_env: dict[str, str], name: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, s3_env[name] + end)
    for message in messages(opened("http://127.0.0.1:1"), "s3://bucket/cat", AccessDeniedError):
        assert f"cannot be accessed: {name} holds a line break, a space" in message
        assert s3_env[name] not in message


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("http://user:pass@host:9000/x", "http://host:9000/x"),
        ("http://user:p@ss@[::1]:9000", "http://[::1]:9000"),
        ("user:pass@host:9000", "host:9000"),
        ("https://host/a@b?c=d@e", "https://host/a@b?c=d@e"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_user_and_password_are_taken_out_of_urls(url: str, without: str) -> None:
    assert without_userinfo(url) == without


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:1", "http://no-such-host.invalid:8333", "http://u:pw@127.0.0.1:1"],
)
def test_nothing_at_the_endpoint(s3_env: dict[str, str], endpoint: str) -> None:
    for message in messages(opened(endpoint), "s3://bucket/cat", StorageUnavailableError):
        assert "cannot be reached: nothing answers at http://" in message
        assert "; check spec.storage.endpointURL" in message
        assert "pw@" not in message


def test_misspelt_profile_is_named(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "tpyo")
    for message in messages(opened(s3_endpoint), "s3://bucket/cat", AccessDeniedError):
        assert "no profile is named 'tpyo'; correct AWS_PROFILE" in message


def test_access_point_stands_in_place_of_a_bucket() -> None:
    name = "arn:aws:s3:eu-west-1:123456789012:accesspoint/photos"
    location = parse(f"s3://{name}/mug/0.jpg")
    assert (location.bucket, location.key) == (name, "mug/0.jpg")


def test_failed_verification_names_the_ca() -> None:
    error = boto.SSLError(endpoint_url="https://minio", error="[SSL: CERTIFICATE_VERIFY_FAILED]")
    message = str(translate(error, parse("s3://b/cat"), "https://minio").error)
    assert "set AWS_CA_BUNDLE to a file with the certificate of the server's CA" in message


def test_https_where_http_is_spoken(s3_endpoint: str, s3_env: dict[str, str]) -> None:
    endpoint = s3_endpoint.replace("http:", "https:")
    for message in messages(opened(endpoint), "s3://bucket/cat", WrongEndpointError):
        assert "TLS fails (WRONG_VERSION_NUMBER)" in message


@pytest.mark.parametrize("endpoint", ["localhost:8333", "http://localhost:99999"])
def test_an_endpoint_that_is_no_url(s3_env: dict[str, str], endpoint: str) -> None:
    for message in messages(opened(endpoint), "s3://bucket/cat", WrongEndpointError):
        assert f"{endpoint} is not a URL; write spec.storage.endpointURL as" in message


@pytest.fixture(params=[200, 302, 403, 404, 405])
def web_page(request: pytest.FixtureRequest, serve: Serve) -> str:
    """The URL of a web server that is no S3 server: the console's port, say."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<html><body>Welcome</body></html>"
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(request.param)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    return serve(Page)


def test_a_web_page_at_the_endpoint(web_page: str, s3_env: dict[str, str]) -> None:
    for message in messages(opened(web_page), "s3://bucket/cat", WrongEndpointError):
        assert f"what answers at {web_page} is not an S3 server" in message


def test_a_server_that_goes_away_during_the_job_is_unavailable_not_wrong(
    web_server_that_ends: tuple[str, str],
) -> None:
    """The endpoint was right before: a later attempt may find it again."""
    endpoint, uri = web_server_that_ends
    with opened(endpoint) as storage:
        assert storage.read(uri) == b"content"
        with pytest.raises(StorageUnavailableError, match=r"nothing answers"):
            storage.read(uri)


@pytest.fixture
def web_server_that_ends(s3_env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A server that answers one request and then closes its port."""

    class Once(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Once)
    server.daemon_threads = False

    def serve_one() -> None:
        server.handle_request()
        server.server_close()

    thread = threading.Thread(target=serve_one)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", "s3://bucket/x"
    thread.join()


@pytest.mark.parametrize(
    ("style", "url"),
    [
        ("auto", "http://s3.example.com:9000/bucket/key"),
        ("path", "http://s3.example.com:9000/bucket/key"),
        ("virtual", "http://bucket.s3.example.com:9000/key"),
    ],
)
def test_the_addressing_style_is_the_jobs(
    style: str, url: str, s3_env: dict[str, str], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a forward proxy, which is asked for the URL as it stands: no name is looked up."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", serve(Proxy))
    settings = StorageSettings("http://s3.example.com:9000", "eu-central-1", style)  # type: ignore[arg-type]
    with Storage(settings, policy=QUICK) as storage:
        storage.read("s3://bucket/key")
    assert asked == [url]


def test_an_upload_never_needs_more_parts_than_s3_allows() -> None:
    mib = 1024 * 1024
    assert part_size(100 * mib, 16 * mib) == 16 * mib
    for size in (160_000 * mib, 160_000 * mib + 1, 5 * 1024 * 1024 * mib):
        assert -(-size // part_size(size, 16 * mib)) <= 10_000


def test_a_file_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    uri = f"file://{tmp_path}/locked/x"
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "x").write_bytes(b"x")
    (tmp_path / "locked").chmod(0)
    program = (
        "import os, sys\n"
        "from dreambooth_storage import AccessDeniedError, Storage, StorageSettings\n"
        "storage, uri = Storage(StorageSettings()), sys.argv[1]\n"
        "if os.geteuid() == 0:\n"
        "    os.setuid(65534)  # root may read everything\n"
        "for operation in (storage.list, storage.read, storage.exists):\n"
        "    try:\n"
        "        operation(uri, field='spec.output')\n"
        "    except AccessDeniedError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", program, uri]
    done = subprocess.run(command, capture_output=True, text=True)
    (tmp_path / "locked").chmod(0o700)
    problem = "may not be accessed; allow it to the user that runs the job (chown, chmod)"
    assert done.stdout.splitlines() == [f"spec.output: {uri} {problem}"] * 3, done.stderr
