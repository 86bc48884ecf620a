"""Object storage: `s3://` on AWS, SeaweedFS, MinIO or Ceph, and `file://` of the same semantics."""

from dreambooth_storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChecksumMismatchError,
    EmptyPrefixError,
    LocalFileError,
    NoSuchBucketError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    WrongEndpointError,
    printable,
)
from dreambooth_storage.interface import (
    AccessKey,
    NullObserver,
    StorageSettings,
    StoredObject,
    TransferObserver,
    TransferPolicy,
    Written,
)
from dreambooth_storage.storage import Storage
from dreambooth_storage.uri import join, without_userinfo

__all__ = [
    "AccessDeniedError",
    "AccessKey",
    "AlreadyExistsError",
    "ChecksumMismatchError",
    "EmptyPrefixError",
    "LocalFileError",
    "NoSuchBucketError",
    "NullObserver",
    "ObjectNotFoundError",
    "Storage",
    "StorageError",
    "StorageFullError",
    "StorageSettings",
    "StorageUnavailableError",
    "StoredObject",
    "TransferObserver",
    "TransferPolicy",
    "Written",
    "WrongEndpointError",
    "join",
    "printable",
    "without_userinfo",
]
