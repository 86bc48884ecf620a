"""An S3 client whose requests are retried, by this module alone.

botocore's own retries are off: they would multiply with ours, and they do not see a body that
breaks off after the headers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.credentials import RefreshableCredentials

from dreambooth_storage.errors import AccessDeniedError, WrongEndpointError
from dreambooth_storage.interface import (
    AccessKey,
    StorageSettings,
    TransferObserver,
    TransferPolicy,
)
from dreambooth_storage.s3.errors import FAILURES, translate
from dreambooth_storage.uri import Location, without_userinfo

T = TypeVar("T")


class S3Client:
    """boto3's client for S3, made on first use, with retries, and errors as StorageErrors."""

    def __init__(
        self,
        settings: StorageSettings,
        policy: TransferPolicy,
        observer: TransferObserver,
        credentials: AccessKey | None = None,
    ) -> None:
        self.policy = policy
        self._credentials = credentials
        self._settings = settings
        self._observer = observer
        self._endpoint = without_userinfo(settings.endpoint_url or "") or "AWS"
        self._reached = False
        self._lock = threading.Lock()
        self._made: Any = None  # boto3 makes its client classes at run time: they have no types

    def call(self, operation: str, location: Location, request: Callable[[Any], T]) -> T:
        """Call `request(client)` until it succeeds or `policy.attempts` are used up.

        Args:
            operation: what the observer is told: list, exists, read, write or delete.
            location: what errors are about.
            request: one request, the reading of its body included. It may be called again.

        Raises:
            StorageError: the last attempt failed, or a failure was permanent.
        """
        client = self._client(location)
        for attempt in range(1, self.policy.attempts + 1):
            try:
                result = request(client)
            except FAILURES as raised:
                failure = translate(
                    raised, location.uri, location.bucket, self._endpoint, self._reached
                )
                self._observer.failed(operation, failure.code)
                if attempt == self.policy.attempts or not failure.transient:
                    raise failure.error from None  # botocore's texts may hold what is private
                time.sleep(self._pause(attempt))
            else:
                self._reached = True
                self._observer.progressed()
                return result
        raise AssertionError("a policy allows at least one attempt")

    def failed(self, operation: str, code: str) -> None:
        """Report a failure that is no request's, such as content that arrived damaged."""
        self._observer.failed(operation, code)

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            if self._made is not None:
                self._made.close()

    def _pause(self, attempt: int) -> float:
        """Seconds to wait after failed attempt `attempt` (from 1): exponential with full jitter.

        So ranks that failed together do not all come back at once. See "Exponential Backoff And
        Jitter" (AWS Architecture Blog, 2015).
        """
        longest = min(self.policy.max_delay, self.policy.base_delay * 2 ** (attempt - 1))
        return random.uniform(0, longest)

    def _client(self, location: Location) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make(location)
            return self._made

    def _make(self, location: Location) -> Any:
        settings, policy, given = self._settings, self.policy, self._credentials
        config = Config(
            connect_timeout=policy.connect_timeout,
            read_timeout=policy.read_timeout,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=policy.objects_at_once + policy.parts_at_once,
            tcp_keepalive=True,
            # Content-MD5 is signed, and stands for the body: hashing it for the signature as well
            # would only take time.
            s3={
                "addressing_style": settings.addressing_style,
                "payload_signing_enabled": False,
            },
            # By default botocore sends bodies as chunks with a CRC trailer, which older MinIO, Ceph
            # and SeaweedFS refuse or store as content. Our own sha256 covers the whole way.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            # A session of its own: boto3's default one is not thread-safe. It finds credentials in
            # the environment, in files or through the pod's identity, unless they are given.
            session = boto3.session.Session(
                aws_access_key_id=given.id if given else None,
                aws_secret_access_key=given.secret if given else None,
                aws_session_token=given.session_token if given else None,
            )
            _check_keys(session, location)
            # Signatures need a region, also for servers that have none. AWS's own must be right.
            fallback = "us-east-1" if settings.endpoint_url else None
            return session.client(
                "s3",
                endpoint_url=settings.endpoint_url,
                region_name=settings.region or session.region_name or fallback,
                config=config,
            )
        except ValueError:
            raise WrongEndpointError(
                location.uri,
                f"cannot be reached: {self._endpoint} is not a URL",
                "write spec.storage.endpointURL as https://host:port",
            ) from None
        except FAILURES as raised:
            raise translate(
                raised, location.uri, location.bucket, self._endpoint, False
            ).error from None


def _check_keys(session: Any, location: Location) -> None:
    """Raise AccessDeniedError for keys that were not copied cleanly.

    A Secret made from a file often ends in a line break. It breaks a header in the access key, and
    the signature in the secret key, where the server can only answer that it does not match.
    """
    found = session.get_credentials()
    if found is None or isinstance(found, RefreshableCredentials):
        return  # none at all is reported by the request; a pod's identity has sound keys
    keys = {
        "AWS_ACCESS_KEY_ID": found.access_key,
        "AWS_SECRET_ACCESS_KEY": found.secret_key,
        "AWS_SESSION_TOKEN": found.token,
    }
    for name, key in keys.items():
        if key and (not key.isprintable() or " " in key):
            raise AccessDeniedError(
                location.uri,
                f"cannot be accessed: {name} holds a line break, a space or a control character",
                "copy the key again without it, as with `printf %s KEY` in place of `echo KEY`",
            )
