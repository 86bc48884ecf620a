"""The time by the API server's clock, whatever the clock of this node says."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

logger = logging.getLogger(__name__)

Now = Callable[[], datetime]
"""Tells the time; injected wherever time matters."""

TOLERANCE = timedelta(seconds=2)
"""A Date header holds whole seconds and is some time on its way."""
HALF_SECOND = timedelta(seconds=0.5)


class ServerClock:
    """Follows the `Date` headers of the API server's answers.

    Starts with this node's time. Steps of the node's clock change nothing, as only the monotonic
    clock is read after that.
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
        """Take an answer's `Date` header into account; a missing or unreadable one is ignored."""
        try:
            said = parsedate_to_datetime(date or "")
        except ValueError:
            return
        ahead = said + HALF_SECOND - self.now()
        if abs(ahead) > TOLERANCE:
            self._origin += ahead
            logger.warning(
                "The API server's clock is %.0f s ahead of what was thought; it is followed",
                ahead.total_seconds(),
            )
