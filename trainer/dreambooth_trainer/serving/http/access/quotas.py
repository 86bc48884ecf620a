"""How many images each token may ask for in an hour."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable

from dreambooth_trainer.serving.http.access.tokens import Token

HOUR_SECONDS = 3600.0


class QuotaError(Exception):
    """A token has used up its images of this hour."""

    def __init__(self, limit: int, wait_seconds: int) -> None:
        super().__init__(
            f"the token's {limit} images an hour are used up; try again in {wait_seconds} seconds"
        )
        self.wait_seconds = wait_seconds


class Quotas:
    """What tokens have asked for in the last hour. Used by the event loop alone.

    Args:
        clock: Seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: defaultdict[Token, deque[tuple[float, int]]] = defaultdict(deque)

    def check(self, token: Token, images: int) -> None:
        """Whether a token may ask for so many images now; at most its limit at once.

        Raises:
            QuotaError: It may later.
        """
        if token.images_per_hour is None:
            return
        assert images <= token.images_per_hour
        used, now = self._used[token], self._clock()
        while used and used[0][0] + HOUR_SECONDS <= now:
            used.popleft()
        over = sum(count for _, count in used) + images - token.images_per_hour
        for asked_at, count in used:
            if over <= 0:
                return
            over -= count
            if over <= 0:
                wait = math.ceil(asked_at + HOUR_SECONDS - now)
                raise QuotaError(token.images_per_hour, wait)

    def charge(self, token: Token, images: int) -> None:
        """A token has asked for so many images, and got a place in the queue."""
        if token.images_per_hour is not None:
            self._used[token].append((self._clock(), images))
