"""What can go wrong between the operator and the API server.

    ApiError
        NotFound          there is no such object
        Conflict          somebody was faster; look again
        Forbidden         the operator's Role lacks a rule
        Invalid           the API server refuses what was sent
        TooManyRequests   wait `retry_after` seconds
        Unavailable       no answer, or an error of the server's own
        NotLeading        another replica may act by now; nothing was sent

`NameTakenError` is no error of the API server: a child's name belongs to something else.
"""


class ApiError(Exception):
    """A request that did not succeed. The message says which one."""

    kind = "other"
    """For metrics."""
    retry_after = 0.0
    """Seconds to wait at least."""


class NotFoundError(ApiError):
    """There is no such object, or no such kind."""

    kind = "not_found"


class ConflictError(ApiError):
    """The object is not as it was thought to be: changed, replaced, or there already."""

    kind = "conflict"


class ForbiddenError(ApiError):
    """The operator may not do this; the message names verb, resource and namespace."""

    kind = "forbidden"


class InvalidError(ApiError):
    """The API server refuses what was sent; the message says why."""

    kind = "invalid"


class TooManyRequestsError(ApiError):
    """The API server is busy."""

    kind = "too_many_requests"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ApiError):
    """No connection, no answer in time, or an error of the server's own."""

    kind = "unavailable"


class NotLeadingError(ApiError):
    """This process may not write any more."""

    kind = "not_leading"


class NameTakenError(Exception):
    """An object that is not the job's has the name of a child: it is left alone."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name}")
