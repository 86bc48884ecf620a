"""Object storage: `s3://` on AWS, SeaweedFS, MinIO or Ceph, and `file://` of the same semantics."""

from dreambooth_storage.errors import (
    AccessDenied,
    AlreadyExists,
    ChecksumMismatch,
    EmptyPrefix,
    Full,
    NoSuchBucket,
    NotFound,
    StorageError,
    Unavailable,
    WrongEndpoint,
    shown,
)
from dreambooth_storage.interface import (
    StorageSettings,
    StoredObject,
    TransferObserver,
    TransferPolicy,
    Written,
)
from dreambooth_storage.storage import Storage
from dreambooth_storage.uri import join

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ChecksumMismatch",
    "EmptyPrefix",
    "Full",
    "NoSuchBucket",
    "NotFound",
    "Storage",
    "StorageError",
    "StorageSettings",
    "StoredObject",
    "TransferObserver",
    "TransferPolicy",
    "Unavailable",
    "Written",
    "WrongEndpoint",
    "join",
    "shown",
]
