"""Folders up to object storage and down again, for the command line."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from dreambooth_api.models.storage import Storage
from dreambooth_operator.errors import UserError

KEYS = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}


class StorageProblemError(UserError):
    """Object storage refused. The message names the URI and what to do."""


@dataclass(frozen=True)
class Found:
    """An object in storage."""

    uri: str
    relative: str
    """Its path below the folder that was listed."""
    modified: datetime


class ObjectStorage:
    """The storage of one job; URIs are `s3://bucket/key` or `file:///path`.

    Credentials come from `environment`, else from boto3's usual places. Every method raises
    `StorageProblemError`.
    """

    def __init__(self, storage: Storage, environment: Mapping[str, str]) -> None:
        self._storage = storage
        self._environment = environment
        self._client: Any = None  # boto3 makes its client classes at run time: they have no types

    def listing(self, uri: str) -> list[Found]:
        """All objects below a folder, by key."""
        scheme, bucket, prefix = split(uri)
        if scheme == "file":
            return list(_files(Path(prefix)))
        with _explained(uri):
            pages = (
                self._s3()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=bucket, Prefix=f"{prefix.rstrip('/')}/")
            )
            return [
                Found(
                    uri=f"s3://{bucket}/{item['Key']}",
                    relative=item["Key"].removeprefix(f"{prefix.rstrip('/')}/"),
                    modified=item["LastModified"],
                )
                for page in pages
                for item in page.get("Contents", [])
            ]

    def upload(self, source: Path, uri: str) -> int:
        """Upload a folder or one file; returns how many files."""
        if not source.exists():
            raise UserError(f"--upload {source}: no such file or folder")
        files = _tree(source)
        for path, relative in files:
            self._put(path, f"{uri.rstrip('/')}/{relative}" if relative else uri)
        return len(files)

    def download(self, uri: str, folder: Path, wanted: Callable[[str], bool]) -> list[Path]:
        """Fetch the objects below `uri` whose relative path is wanted; returns the local files."""
        fetched = []
        for found in self.listing(uri):
            if not wanted(found.relative) or ".." in PurePosixPath(found.relative).parts:
                continue
            path = folder / found.relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._get(found.uri))
            fetched.append(path)
        return fetched

    def _get(self, uri: str) -> bytes:
        scheme, bucket, key = split(uri)
        if scheme == "file":
            return Path(key).read_bytes()
        with _explained(uri):
            body: bytes = self._s3().get_object(Bucket=bucket, Key=key)["Body"].read()
            return body

    def _put(self, path: Path, uri: str) -> None:
        scheme, bucket, key = split(uri)
        if scheme == "file":
            Path(key).parent.mkdir(parents=True, exist_ok=True)
            Path(key).write_bytes(path.read_bytes())
            return
        with _explained(uri):
            self._s3().upload_file(str(path), bucket, key)

    def _s3(self) -> Any:
        if self._client is None:
            self._client = _s3_client(self._storage, self._environment)
        return self._client


def _s3_client(storage: Storage, environment: Mapping[str, str]) -> Any:
    import boto3
    from botocore.config import Config

    given = {argument: environment[key] for key, argument in KEYS.items() if key in environment}
    return boto3.client(
        "s3",
        endpoint_url=storage.endpoint_url,
        region_name=storage.region or environment.get("AWS_DEFAULT_REGION"),
        config=Config(
            s3={"addressing_style": storage.addressing_style},
            connect_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 5},
        ),
        **given,
    )


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what boto3 raises into one sentence."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except Boto3Error as error:  # hides the server's answer
        cause = error.__context__ if isinstance(error.__context__, ClientError) else error
        raise StorageProblemError(f"{uri}: {_sentence(cause)}") from error
    except (BotoCoreError, ClientError) as error:
        raise StorageProblemError(f"{uri}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    response = getattr(error, "response", {})
    code = response.get("Error", {}).get("Code", "")
    if code in ("NoSuchBucket", "404"):
        return "there is no such bucket; create it, or correct the name"
    if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return f"access denied ({code}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if type(error).__name__ in ("EndpointConnectionError", "ConnectTimeoutError"):
        return f"the server does not answer; check spec.storage.endpointURL ({error})"
    return str(error)


def split(uri: str) -> tuple[str, str, str]:
    """(scheme, bucket, key) of a URI; a file has no bucket, and its path is the key."""
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return "file", "", rest
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise UserError(f"{uri}: use s3://bucket/folder or file:///folder")
    return "s3", bucket, key


def _files(folder: Path) -> Iterator[Found]:
    for path, relative in _tree(folder) if folder.is_dir() else []:
        modified = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        yield Found(f"file://{path}", relative, modified)


def _tree(source: Path) -> list[tuple[Path, str]]:
    """Files and their relative paths; one file has an empty one. Hidden files stay behind."""
    if source.is_file():
        return [(source, "")]
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    named = [(path, path.relative_to(source)) for path in paths]
    return [
        (path, name.as_posix())
        for path, name in named
        if not any(part.startswith(".") for part in name.parts)
    ]
