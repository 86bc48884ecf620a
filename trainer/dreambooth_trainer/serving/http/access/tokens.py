"""Bearer tokens (RFC 6750), and what each of them may use."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Token:
    """Somebody who may use the server."""

    value: str = field(repr=False)
    images_per_hour: int | None
    """None: any number."""


ANYBODY = Token("", None)


class Tokens:
    """Tokens that are accepted; without any, everybody is.

    Args:
        tokens: The images an hour of each; None: the default.
        images_per_hour: The default; None: any number.
    """

    def __init__(self, tokens: Mapping[str, int | None], images_per_hour: int | None) -> None:
        self._tokens = [
            Token(value, images_per_hour if own is None else own) for value, own in tokens.items()
        ]

    @property
    def are_needed(self) -> bool:
        """Whether requests need one."""
        return bool(self._tokens)

    def find(self, authorization: str | None) -> Token | None:
        """The token in a header `Authorization`; None: it holds none that is accepted."""
        if not self._tokens:
            return ANYBODY
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode()
        # All are compared, and in constant time: the time must not tell how much was right.
        matches = [hmac.compare_digest(given, each.value.encode()) for each in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            return None
        return self._tokens[matches.index(True)]
