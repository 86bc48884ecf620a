"""Translates botocore's exceptions and S3's error responses to StorageErrors.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import botocore.exceptions as boto
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from dreambooth_storage.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NoSuchBucketError,
    ObjectNotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    WrongEndpointError,
)
from dreambooth_storage.uri import Location

_TRANSIENT_CODES = {
    "BadDigest",  # the body was damaged in transit
    "ConditionalRequestConflict",  # HTTP 409: another conditional write of the key was under way
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
# AWS is never full, so each of the other servers has codes of its own.
_FULL_CODES = {
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
_WRONG_REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_ABOUT_KEYS = {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
"""Codes whose messages some servers end with the key that was sent."""

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.TokenRetrievalError,
)
_NOT_REACHED = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)
_CREDENTIALS_ADVICE = (
    "check the keys in the Secret that spec.storage.credentials.secretRef names "
    "(or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the pod's identity)"
)
_ANONYMOUS_ADVICE = (
    "allow everyone to read and list the bucket, or take it out of spec.storage.anonymousBuckets"
)
_ENDPOINT_ADVICE = "check spec.storage.endpointURL"


class TruncatedBodyError(Exception):
    """A body ended before its Content-Length; the message has both numbers of bytes."""


class NotAnS3ServerError(Exception):
    """A successful response without the fields that every S3 server sends."""


_CODES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (NotAnS3ServerError, "NotAnS3Server"),
    (ResponseParserError, "GarbledAnswer"),
    ((*_NO_CREDENTIALS, boto.ProfileNotFound), "NoCredentials"),
    (boto.CredentialRetrievalError, "CredentialRetrieval"),
    (boto.ParamValidationError, "InvalidParameter"),
    (boto.SSLError, "TLS"),
    (boto.ProxyConnectionError, "ProxyConnection"),
    (boto.ConnectTimeoutError, "ConnectTimeout"),
    (boto.EndpointConnectionError, "EndpointConnection"),
    ((boto.ReadTimeoutError, urllib3.exceptions.TimeoutError, TimeoutError), "ReadTimeout"),
    ((TruncatedBodyError, boto.IncompleteReadError), "IncompleteRead"),
)
"""Codes of failures without a response; the first match counts. They are metric labels: stable, and
not the class names of libraries.
"""
_CONNECTION_CLOSED = "ConnectionClosed"

FAILURES = (
    boto.BotoCoreError,
    boto.ClientError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
    ResponseParserError,
    TruncatedBodyError,
    NotAnS3ServerError,
)
"""What a request can raise, reading its body included. A plain OSError comes from local files."""


@dataclass(frozen=True)
class Failure:
    """One failed request: the error for the user, its code for metrics, and whether to retry."""

    error: StorageError
    code: str
    transient: bool


def translate(
    raised: Exception,
    location: Location,
    endpoint: str,
    *,
    reached: bool = False,
    anonymous: bool = False,
) -> Failure:
    """Translate a failed request.

    Args:
        raised: one of `FAILURES`.
        location: the object or prefix of the request.
        endpoint: where the request went, without user and password.
        reached: whether an earlier request succeeded; the endpoint cannot be wrong then.
        anonymous: whether the request was sent without credentials.
    """
    if isinstance(raised, boto.ClientError):
        return _of_answer(raised, location, endpoint, anonymous)
    code, uri = _code(raised), location.uri
    if isinstance(raised, NotAnS3ServerError):
        return Failure(_not_s3(uri, endpoint), code, False)
    if isinstance(raised, ResponseParserError) and not reached:
        # Retried all the same: a proxy in front of S3 may answer in HTML while S3 is down.
        return Failure(_not_s3(uri, endpoint), code, True)
    if isinstance(raised, boto.ProfileNotFound):
        problem = f"needs credentials, and no profile is named {raised.kwargs['profile']!r}"
        advice = "correct AWS_PROFILE, or add the profile to ~/.aws/config"
        return Failure(AccessDeniedError(uri, problem, advice), code, False)
    if isinstance(raised, _NO_CREDENTIALS):
        problem = "needs credentials, and none were found"
        return Failure(AccessDeniedError(uri, problem, _CREDENTIALS_ADVICE), code, False)
    if isinstance(raised, boto.CredentialRetrievalError):
        problem = "needs credentials, and the pod's identity gave none"
        return Failure(AccessDeniedError(uri, problem, _CREDENTIALS_ADVICE), code, True)
    if isinstance(raised, boto.ParamValidationError):
        problem = "cannot be the name of an object"
        return Failure(ObjectNotFoundError(uri, problem, "add a key below the bucket"), code, False)
    if isinstance(raised, _NOT_REACHED) and not reached:
        problem = f"cannot be reached: {_reason(raised)} at {endpoint}"
        advice = f"{_ENDPOINT_ADVICE}: scheme, host and port, and that the host is up"
        if "CERTIFICATE_VERIFY_FAILED" in str(raised):
            advice = "set AWS_CA_BUNDLE to a file with the certificate of the server's CA"
        # A server that is down looks like a wrong host, so that is retried. A failed TLS handshake
        # means a server that is up, and wrong.
        kind = WrongEndpointError if isinstance(raised, boto.SSLError) else StorageUnavailableError
        return Failure(kind(uri, problem, advice), code, True)
    return Failure(_unavailable(uri, endpoint, _reason(raised)), code, True)


def _of_answer(
    raised: boto.ClientError, location: Location, endpoint: str, anonymous: bool
) -> Failure:
    uri, answer = location.uri, raised.response.get("Error", {})
    status = raised.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    # Codes come first: servers disagree about the status that goes with a code.
    code, message = answer.get("Code", ""), answer.get("Message", "").rstrip(".")
    detail = (
        f"{code or status}: {message}" if message and code not in _ABOUT_KEYS else code or status
    )
    if code in _FULL_CODES or status == 507:
        advice = "make room there, or raise its quota; the job goes on from its last checkpoint"
        problem = f"cannot be written: {endpoint} has no room left ({detail})"
        return Failure(StorageFullError(uri, problem, advice), code or str(status), False)
    # 501 is NotImplemented, which no retry changes.
    if code in _TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return Failure(_unavailable(uri, endpoint, detail), code or str(status), True)
    error = _permanent(code, status, detail, location, endpoint, anonymous)
    return Failure(error, code or str(status), False)


def _permanent(
    code: str, status: int, detail: str, location: Location, endpoint: str, anonymous: bool
) -> StorageError:
    uri, bucket = location.uri, location.bucket
    if not code:  # from a proxy or a web server: S3's errors always have a code
        return _not_s3(uri, endpoint)
    if code == "InvalidBucketName":
        advice = "correct the URI: a name has 3 to 63 lower-case letters, digits, dots and hyphens"
        return NoSuchBucketError(uri, f"has a bucket name that {endpoint} refuses", advice)
    if code == "NoSuchBucket":
        return NoSuchBucketError(
            uri,
            f"is in the bucket {bucket}, which does not exist at {endpoint}",
            "create the bucket, or correct the URI or spec.storage.endpointURL",
        )
    if code in _WRONG_REGION_CODES or status in (301, 307):
        problem = f"is not served from this region by {endpoint} ({detail})"
        return WrongEndpointError(
            uri, problem, "check spec.storage.region and spec.storage.endpointURL"
        )
    # botocore uses the status as the code where the response has no body, as with HEAD.
    if code in ("PreconditionFailed", "412"):
        return AlreadyExistsError(uri, "exists already", "remove it, or choose another place")
    if code in ("NoSuchKey", "NoSuchUpload", "404"):
        return ObjectNotFoundError(
            uri, "does not exist", "correct the URI, or put the object there"
        )
    if code == "RequestTimeTooSkewed":  # HTTP 403, but new credentials would not help
        return AccessDeniedError(uri, "is refused: this machine's clock is wrong", "set the clock")
    if status in (401, 403):
        credentials = f"{_CREDENTIALS_ADVICE} and that they may read, list and write in {bucket}"
        advice = _ANONYMOUS_ADVICE if anonymous else credentials
        return AccessDeniedError(uri, f"is refused by {endpoint} ({detail})", advice)
    if status == 501:
        problem = f"needs what {endpoint} does not implement ({detail})"
        return WrongEndpointError(
            uri, problem, "use a server with conditional writes (If-None-Match)"
        )
    return StorageError(uri, f"is refused by {endpoint} ({detail})", "check the server's log")


def _not_s3(uri: str, endpoint: str) -> WrongEndpointError:
    problem = f"cannot be reached: what answers at {endpoint} is not an S3 server"
    advice = f"{_ENDPOINT_ADVICE}: it must be the S3 API's own host and port, not a web console's"
    return WrongEndpointError(uri, problem, advice)


def _unavailable(uri: str, endpoint: str, reason: str) -> StorageUnavailableError:
    return StorageUnavailableError(
        uri,
        f"is not available from {endpoint} ({reason})",
        "check the server's health and load, then start the job again",
    )


def _code(raised: Exception) -> str:
    return next((code for kinds, code in _CODES if isinstance(raised, kinds)), _CONNECTION_CLOSED)


def _reason(raised: Exception) -> str:
    """A short reason; the libraries' own texts repeat whole URLs."""
    text = str(raised)
    if isinstance(raised, boto.EndpointConnectionError):
        return "nothing answers"
    if isinstance(raised, boto.SSLError):
        reason = re.search(r"\[SSL: (\w+)\]", text)
        return f"TLS fails ({reason.group(1) if reason else 'certificate or protocol'})"
    if isinstance(raised, boto.ConnectTimeoutError | boto.ReadTimeoutError | TimeoutError):
        return "time-out"
    if isinstance(raised, TruncatedBodyError):
        return f"the body ended early: {text}"
    if isinstance(raised, ResponseParserError):
        return "the answer is garbled"
    return f"the connection broke ({_code(raised)})"
