"""Who may use the server: bearer tokens (RFC 6750)."""

import hmac
from collections.abc import Iterable


class Tokens:
    """Tokens that are accepted; without any, everybody is."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [each.encode() for each in tokens]

    @property
    def are_needed(self) -> bool:
        """Whether requests need one."""
        return bool(self._tokens)

    def accept(self, authorization: str | None) -> bool:
        """Whether a header `Authorization` holds one of the tokens."""
        if not self._tokens:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode()
        # All are compared, and in constant time: the time must not tell how much was right.
        matches = [hmac.compare_digest(given, each) for each in self._tokens]
        return scheme.lower() == "bearer" and any(matches)
