"""What requests look like on the wire."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from dreambooth_storage import Storage, StorageSettings

Serve = Callable[[type[BaseHTTPRequestHandler]], str]


def test_bodies_are_sent_as_they_are_without_trailers(
    serve: Serve, s3_env: dict[str, str], tmp_path: Path
) -> None:
    """Older MinIO, Ceph and SeaweedFS refuse aws-chunked bodies, or store them with their frame."""
    requests: list[tuple[Message, bytes]] = []

    class Recording(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.headers, body))
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "file").write_bytes(b"content")
    with Storage(StorageSettings(serve(Recording), addressing_style="path")) as storage:
        storage.write("s3://bucket/written", b"content")
        storage.upload(tmp_path / "file", "s3://bucket/uploaded")
        storage.stream(tmp_path / "file", "s3://bucket/streamed")
    assert [body for _, body in requests] == [b"content"] * 3
    for headers, _ in requests:
        names = {name.lower() for name in headers}
        assert not names & {"x-amz-trailer", "x-amz-decoded-content-length", "transfer-encoding"}
        # Over plain HTTP, botocore puts into a header what would be a trailer over TLS.
        assert not [name for name in names if name.startswith(("x-amz-checksum", "x-amz-sdk-"))]
        assert "aws-chunked" not in headers.get("Content-Encoding", "")
        assert not headers["x-amz-content-sha256"].startswith("STREAMING")


def test_endpoint_with_a_path_is_served_through_a_reverse_proxy(
    serve: Serve, s3_endpoint: str, bucket: str
) -> None:
    """The proxy takes the path off and names it in X-Forwarded-Prefix, as the signature has it."""

    class Proxy(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            assert self.path.startswith("/objects/s3/")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"), timeout=30)
            headers = {**self.headers, "X-Forwarded-Prefix": "/objects/s3"}
            server.request(self.command, self.path.removeprefix("/objects/s3"), body, headers)
            answer = server.getresponse()
            content = answer.read()
            server.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = _forward  # noqa: N815 - names of http.server

        def log_message(self, *_: object) -> None:
            pass

    settings = StorageSettings(f"{serve(Proxy)}/objects/s3", addressing_style="path")
    with Storage(settings) as storage:
        storage.write(f"s3://{bucket}/folder/x", b"content")
        assert storage.read(f"s3://{bucket}/folder/x") == b"content"
        assert [each.relative for each in storage.list(f"s3://{bucket}/folder")] == ["x"]
