"""Storage URIs: `s3://bucket/key` and `file:///absolute/path`, taken literally (no %-escapes)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dreambooth_storage.errors import NoSuchBucketError, StorageError, printable

# An access point stands in place of the bucket, by its ARN; this has a slash.
_ACCESS_POINT = r"arn:aws[a-z-]*:s3:[a-z0-9-]+:[0-9]{12}:accesspoint[:/][a-z0-9-]{3,50}"
_S3 = re.compile(rf"s3://(?P<bucket>{_ACCESS_POINT}|[^/]+)(?:/(?P<key>.*))?", re.DOTALL)
# Wider than S3's rules for new buckets: old buckets and other servers have longer names, capitals
# and underscores. A server refuses what it does not accept.
_BUCKET = re.compile(rf"{_ACCESS_POINT}|[A-Za-z0-9][A-Za-z0-9._-]{{0,254}}")
# Lenient, as it hides secrets: it also matches what no URL parser would accept.
_USERINFO = re.compile(r"^(?P<scheme>[^/?#@]*://|)[^/?#]*@")
_FILE = re.compile(r"file://(?P<key>/.*)", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A parsed URI. For `file://` the bucket is empty and the key is an absolute path."""

    uri: str
    bucket: str
    key: str

    @property
    def is_file(self) -> bool:
        """Whether it is on a file system."""
        return not self.bucket

    @property
    def prefix(self) -> str:
        """The key as a folder: ending in "/", or empty for a whole bucket."""
        return self.key if not self.key or self.key.endswith("/") else self.key + "/"


def without_userinfo(url: str) -> str:
    """The URL of a server without user and password, for messages and records.

    In a text that is no URL, everything before the last "@" of the first part is removed.
    """
    return _USERINFO.sub(r"\g<scheme>", url)


def parse(uri: str) -> Location:
    """Parse a URI.

    Raises:
        StorageError: it is neither `s3://bucket[/key]` nor `file:///path`.
        NoSuchBucketError: no server can have a bucket of that name.
    """
    match = _S3.fullmatch(uri) or _FILE.fullmatch(uri)
    if match is None:
        raise StorageError(
            uri, "is not a storage URI", "write s3://bucket/key or file:///absolute/path"
        )
    parts = match.groupdict()
    bucket = parts.get("bucket")
    # The bucket becomes part of a URL's path or host name, so nothing odd may get through.
    if bucket and (".." in bucket or not _BUCKET.fullmatch(bucket)):
        raise NoSuchBucketError(
            uri,
            f"has no valid bucket name ({printable(bucket)})",
            "correct the URI: a name has 3 to 63 lower-case letters, digits, dots and hyphens",
        )
    return Location(uri, bucket or "", parts["key"] or "")


def join(uri: str, *parts: str) -> str:
    """Append parts to a URI: "s3://bucket/a", "b", "c/d" give "s3://bucket/a/b/c/d"."""
    below = "/".join(part.strip("/") for part in parts if part.strip("/"))
    if not below:
        return uri
    return f"{uri}{below}" if uri.endswith("/") else f"{uri}/{below}"
