"""Fixtures that every part's tests share: a real S3 server on the loopback interface."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dreambooth_operator.local.seaweed import SeaweedServer
from dreambooth_storage import AccessKey, Storage, StorageSettings

# A machine that is busy is no fault of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# A trainer that has no pod listens on loopback alone, and keeps no port of a local run's pods.
os.environ.setdefault("POD_IP", "127.0.0.1")

FOLDER = Path(__file__).parent
SLOWEST = ("trainer/run", "trainer/launcher", "gpu", "cluster/faults", "examples", "bench")
"""Folders of the longest tests."""
PUBLIC_BUCKET = "public"
"""Anyone may read it, and the owner of `TEAM_KEYS` only as anyone may: without the keys."""
TEAM_BUCKET = "team"
TEAM_KEYS = AccessKey("team", "team-secret")
"""They open `TEAM_BUCKET` and nothing else."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first: at the end no worker is left alone with one of them."""
    folders = [FOLDER / name for name in SLOWEST]
    items.sort(key=lambda item: item.path.parent not in folders)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running SeaweedFS, started by the first test that asks for it, one per test process."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs"))
    config = server.folder / "s3.json"
    identities = json.loads(config.read_text())["identities"]
    keys = {"accessKey": TEAM_KEYS.id, "secretKey": TEAM_KEYS.secret}
    team = [f"{action}:{TEAM_BUCKET}" for action in ("Read", "Write", "List")]
    anyone = [f"{action}:{PUBLIC_BUCKET}" for action in ("Read", "List")]
    identities += [
        {"name": "team", "credentials": [keys], "actions": team},
        {"name": "anonymous", "actions": anyone},
    ]
    config.write_text(json.dumps({"identities": identities}))
    with server:
        yield server


@pytest.fixture
def public_bucket(s3_server: SeaweedServer) -> Iterator[Storage]:
    """Storage of the owner of `PUBLIC_BUCKET` and `TEAM_BUCKET`, which exist and are empty."""
    keys = AccessKey(s3_server.access_key, s3_server.secret_key)
    with Storage(StorageSettings(s3_server.endpoint_url), credentials=keys) as owner:
        for bucket in (PUBLIC_BUCKET, TEAM_BUCKET):
            s3_server.create_bucket(bucket)
            owner.delete([each.uri for each in owner.list(f"s3://{bucket}")])
        yield owner


@pytest.fixture(scope="session")
def s3_endpoint(s3_server: SeaweedServer) -> str:
    """The server's URL."""
    return s3_server.endpoint_url


@pytest.fixture
def s3_env(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The server's credentials, in os.environ for this test; nothing else of AWS is left there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {**s3_server.environment, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def bucket(s3_server: SeaweedServer, s3_env: dict[str, str]) -> str:
    """The name of a new, empty bucket; the credentials are in os.environ."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_server.create_bucket(name)
    return name


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """A function that starts an HTTP server on loopback and returns its URL.

    The server stops when the test ends.
    """
    with ExitStack() as stack:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start
