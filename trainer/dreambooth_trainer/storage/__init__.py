"""Object storage: `s3://` on AWS, SeaweedFS, MinIO or Ceph, and `file://` of the same semantics."""

from dreambooth_trainer.storage.api import Storage
from dreambooth_trainer.storage.errors import (
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
from dreambooth_trainer.storage.interface import (
    StorageSettings,
    StoredObject,
    TransferObserver,
    TransferPolicy,
    Written,
)
from dreambooth_trainer.storage.uri import join

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
