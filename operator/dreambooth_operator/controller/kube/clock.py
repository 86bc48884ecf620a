"""The time by the API server's clock, whatever this node's clock shows.

Every time in a status, and every time that is compared with one, is by that clock.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

Now = Callable[[], datetime]
"""Returns the time in UTC; injected wherever time matters."""

TOLERANCE = timedelta(seconds=2)
"""Date headers hold whole seconds, and responses take time to arrive."""
HALF_SECOND = timedelta(seconds=0.5)


class ServerClock:
    """A clock synchronized with the `Date` headers of the API server's responses, to 2 seconds.

    It starts with this node's time, and reads only the monotonic clock after that, so that steps
    of the node's clock have no effect.
    """

    def __init__(
        self,
        local: Now = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._origin = local() - timedelta(seconds=monotonic())

    def now(self) -> datetime:
        """The time in UTC."""
        return self._origin + timedelta(seconds=self._monotonic())

    def synchronize(self, date: str | None) -> None:
        """Correct the clock by a `Date` header if it is off by more than `TOLERANCE` (2 seconds).

        A missing or unreadable header is ignored.
        """
        try:
            server_time = parsedate_to_datetime(date or "")
        except ValueError:
            return
        # A Date header is cut to whole seconds: on average the server's time is half a second
        # later.
        ahead = server_time + HALF_SECOND - self.now()
        if abs(ahead) > TOLERANCE:
            self._origin += ahead
            logger.warning(
                "the API server's clock is %.0f s ahead; the operator now uses its time",
                ahead.total_seconds(),
            )
