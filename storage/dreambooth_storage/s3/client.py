"""An S3 client that retries requests, and signs none to public buckets.

botocore's own retries are off: they would multiply with ours, and they do not cover a body that
breaks off after the headers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import RefreshableCredentials

from dreambooth_storage.errors import AccessDeniedError, WrongEndpointError
from dreambooth_storage.interface import (
    AccessKey,
    StorageSettings,
    TransferObserver,
    TransferPolicy,
)
from dreambooth_storage.s3.errors import FAILURES, Failure, translate
from dreambooth_storage.uri import Location, without_userinfo

T = TypeVar("T")


class S3Client:
    """boto3's clients for S3, created on first use, with retries.

    One signs its requests; the other is for `StorageSettings.anonymous_buckets`. The methods are
    thread-safe, as boto3's clients are. They raise `StorageError`.
    """

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
        # Set by any thread, never cleared: a lost update would cost a less exact message at worst.
        self._reached = False
        self._lock = threading.Lock()
        # By "is anonymous". boto3 creates its client classes at run time: they have no types.
        self._boto: dict[bool, Any] = {}

    def call(self, operation: str, location: Location, request: Callable[[Any], T]) -> T:
        """Call `request(client)` until it succeeds or `policy.attempts` are used up.

        Args:
            operation: reported to the observer: list, exists, read, write or delete.
            location: the object or prefix that errors name.
            request: one request, the reading of its body included. It may be called again.

        Raises:
            StorageError: the last attempt failed, or a failure was permanent.
        """
        client = self._client(location)
        for attempt in range(1, self.policy.attempts + 1):
            try:
                result = request(client)
            except FAILURES as raised:
                failure = self._translate(raised, location, self._reached)
                self._observer.failed(operation, failure.code)
                if attempt == self.policy.attempts or not failure.transient:
                    # Without the cause: botocore's texts may contain keys and signed URLs.
                    raise failure.error from None
                time.sleep(self._pause(attempt))
            else:
                self._reached = True
                self._observer.progressed()
                return result
        raise AssertionError("a policy allows at least one attempt")

    def failed(self, operation: str, code: str) -> None:
        """Report a failure that no request raised, such as a checksum that does not match."""
        self._observer.failed(operation, code)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._boto.values():
                client.close()

    def _pause(self, attempt: int) -> float:
        """Seconds to wait after failed attempt `attempt` (from 1): exponential with full jitter.

        Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
        """
        # Ranks that failed together must not all retry at the same moment.
        longest = min(self.policy.max_delay, self.policy.base_delay * 2 ** (attempt - 1))
        return random.uniform(0, longest)

    def _client(self, location: Location) -> Any:
        # Created once: the first call of several threads would otherwise load several clients.
        with self._lock:
            anonymous = self._is_anonymous(location)
            if anonymous not in self._boto:
                self._boto[anonymous] = self._make(location, anonymous)
            return self._boto[anonymous]

    def _is_anonymous(self, location: Location) -> bool:
        return location.bucket in self._settings.anonymous_buckets

    def _translate(self, raised: Exception, location: Location, reached: bool) -> Failure:
        anonymous = self._is_anonymous(location)
        return translate(raised, location, self._endpoint, reached=reached, anonymous=anonymous)

    def _make(self, location: Location, anonymous: bool) -> Any:
        settings, policy, given = self._settings, self.policy, self._credentials
        config = Config(
            signature_version=UNSIGNED if anonymous else None,
            connect_timeout=policy.connect_timeout,
            read_timeout=policy.read_timeout,
            retries={"mode": "standard", "total_max_attempts": 1},
            # One per thread that can send a request: urllib3 discards connections beyond these.
            max_pool_connections=policy.objects_at_once + policy.parts_at_once,
            # Firewalls and NAT gateways drop idle connections silently.
            tcp_keepalive=True,
            # Content-MD5 is part of the signature and covers the body: hashing the body with
            # SHA-256 for the signature as well would only take time.
            s3={
                "addressing_style": settings.addressing_style,
                "payload_signing_enabled": False,
            },
            # By default botocore sends bodies in chunks with a CRC trailer, which older MinIO, Ceph
            # and SeaweedFS refuse or store as content. Our own sha256 covers the whole path.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            _ = urlsplit(settings.endpoint_url or "").port  # ValueError: botocore lets any pass
            # A session of its own, as boto3's default session is not thread-safe. Without explicit
            # keys it looks in the environment, in files and for the pod's identity.
            session = boto3.session.Session(
                aws_access_key_id=given.id if given else None,
                aws_secret_access_key=given.secret if given else None,
                aws_session_token=given.session_token if given else None,
            )
            if not anonymous:
                _check_keys(session, location)
            # Signatures need a region even for servers that have none. On AWS it must be right, so
            # there is no fallback.
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
                "write spec.storage.endpointURL as https://host:port, with a port up to 65535",
            ) from None
        except FAILURES as raised:
            raise self._translate(raised, location, False).error from None


def _check_keys(session: Any, location: Location) -> None:
    """Raise `AccessDeniedError` for keys that were not copied cleanly.

    A Secret created from a file often ends in a line break. In the access key it breaks a header;
    in the secret key it changes the signature, and the server only reports a mismatch.
    """
    credentials = session.get_credentials()
    if credentials is None or isinstance(credentials, RefreshableCredentials):
        return  # the request reports missing keys; those of a pod's identity are never copied
    keys = {
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_SESSION_TOKEN": credentials.token,
    }
    for name, key in keys.items():
        if key and (not key.isprintable() or " " in key):
            raise AccessDeniedError(
                location.uri,
                f"cannot be accessed: {name} holds a line break, a space or a control character",
                "copy the key again without it, as with `printf %s KEY` in place of `echo KEY`",
            )
