"""Errors of requests to the API server.

    ApiError
        NotFoundError          the object does not exist
        ConflictError          the object has changed: read it again
        ForbiddenError         the operator's Role lacks a rule
        InvalidError           the API server rejects the request
        TooManyRequestsError   wait for `retry_after` seconds
        UnavailableError       no response, or an error of the server itself
        WebhookError           an admission webhook does not answer
        NotLeadingError        another replica may lead; nothing was sent

`NameTakenError` does not come from the API server: the name of a child belongs to another object.
"""


class ApiError(Exception):
    """A request that failed; raised by every method of `Api`. The message names the request."""

    kind = "other"
    """Value of the label `kind` in the metrics."""
    retry_after = 0.0
    """Seconds to wait at least before a retry."""


class NotFoundError(ApiError):
    """The object, or its kind, does not exist (HTTP 404)."""

    kind = "not_found"


class ConflictError(ApiError):
    """The object has changed, was replaced, or exists already (HTTP 409 and 410)."""

    kind = "conflict"


class ForbiddenError(ApiError):
    """The operator may not do this (HTTP 403); names verb, resource and namespace."""

    kind = "forbidden"


class InvalidError(ApiError):
    """The API server rejects the request (HTTP 400, 422 and others); the message is its reason."""

    kind = "invalid"


class TooManyRequestsError(ApiError):
    """The API server is overloaded (HTTP 429); `retry_after` is in seconds."""

    kind = "too_many_requests"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ApiError):
    """No connection, no response in time, or an error of the server itself (HTTP 5xx)."""

    kind = "unavailable"


class WebhookError(ApiError):
    """The API server cannot call an admission webhook (HTTP 500); the message names it."""

    kind = "webhook"


class NotLeadingError(ApiError):
    """This process may no longer write: another one may lead; raised by `Leader.ensure`."""

    kind = "not_leading"


class NameTakenError(Exception):
    """An object that the job does not own has the name of one of its children.

    Raised by `Executor.execute` before it applies anything.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name}")
