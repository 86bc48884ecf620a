"""The embedded S3 server keeps objects and credentials, and never outlives its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from dreambooth_operator.local.seaweed import ENDPOINT_FILE, SeaweedError, SeaweedServer


def client_of(server: SeaweedServer, **overrides: str) -> Any:
    keys = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret_key}
    return boto3.client(
        "s3", endpoint_url=server.endpoint_url, region_name="us-east-1", **(keys | overrides)
    )


def test_a_restart_serves_the_same_objects_to_the_same_credentials(tmp_path: Path) -> None:
    with SeaweedServer(tmp_path) as server:
        server.create_bucket("kept")
        server.create_bucket("kept")
        with pytest.raises(SeaweedError, match=r"s3://My_Bucket: .*InvalidBucketName.*lower-case"):
            server.create_bucket("My_Bucket")
        first = client_of(server)
        first.put_object(Bucket="kept", Key="a/b", Body=b"content" * 1000)
        keys = server.access_key, server.secret_key
    with pytest.raises(EndpointConnectionError):
        first.list_buckets()

    with SeaweedServer(tmp_path) as again:
        assert (again.access_key, again.secret_key) == keys
        body = client_of(again).get_object(Bucket="kept", Key="a/b")["Body"].read()
    assert body == b"content" * 1000
    port = again.endpoint_url.rsplit(":", 1)[1]
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))


def test_endpoint_that_a_killed_server_left_is_not_used(tmp_path: Path) -> None:
    with SeaweedServer(tmp_path) as server:
        assert SeaweedServer(tmp_path).connect()
        url = server.endpoint_url
    assert not SeaweedServer(tmp_path).connect()
    (tmp_path / ENDPOINT_FILE).write_text(url)
    assert not SeaweedServer(tmp_path).connect()


def test_credentials_that_were_cut_short_are_named(tmp_path: Path) -> None:
    (tmp_path / "s3.json").touch()
    with pytest.raises(SeaweedError, match=r"s3.json: is damaged; delete it"):
        SeaweedServer(tmp_path)


def test_only_the_one_identity_is_served(s3_server: SeaweedServer) -> None:
    with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
        client_of(s3_server, aws_secret_access_key="wrong").list_buckets()
    assert (s3_server.folder / "s3.json").stat().st_mode & 0o077 == 0


def test_the_server_dies_with_its_parent_even_when_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from dreambooth_operator.local.seaweed import SeaweedError, SeaweedServer\n"
        "server = SeaweedServer(sys.argv[1]).start()\n"
        "print(server.endpoint_url, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("http://127.0.0.1:")
    server = SeaweedServer(tmp_path)
    server.endpoint_url = done.stdout.strip()
    time.sleep(1)
    with pytest.raises(EndpointConnectionError):
        client_of(server).list_buckets()
