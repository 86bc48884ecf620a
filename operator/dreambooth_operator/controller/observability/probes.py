"""The operator's liveness probe (/healthz) and readiness probe (/readyz)."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.watch.informer import WatchHealth

CHECK_SECONDS = 10.0
"""Time between two requests to the API server, which also show that the event loop runs."""
ANSWER_SECONDS = 5.0
"""Time-out of such a request."""
# Several checks: a scrape or a large list may hold up the loop for some seconds.
STUCK_SECONDS = 60.0
"""After this time without a check the event loop counts as stuck."""
SILENT_SECONDS = 30.0
"""After this time without an answer the API server counts as unreachable."""
# A single change can be missed when a watch reconnects; twice in a row, it does not deliver.
MAX_MISSES = 2
"""Resyncs in a row that find missed changes before a watch counts as dead."""
# An API server that restarts may fail one or two.
MAX_FAILED_RESYNCS = 3
"""Resyncs in a row that may fail before a kind counts as impossible to list."""


class Probes:
    """Checks the operator. `liveness` and `readiness` may be called from any thread."""

    def __init__(
        self, session: Session, watches: Mapping[Kind, WatchHealth], resync_seconds: float
    ) -> None:
        self._session = session
        self._watches = watches
        self._list_limit = MAX_FAILED_RESYNCS * resync_seconds + STUCK_SECONDS
        self._checked = time.monotonic()
        self.watching = False
        """Everything has been listed and is being watched."""
        self.standing_by = False
        """Another process leads, and this one is ready to take over."""

    async def run(self, api: Api) -> None:
        """Send a request every `CHECK_SECONDS` (10 seconds) until cancelled.

        The API server's answers also keep the clock synchronized. No `ApiError` ends it.
        """
        while True:
            self._checked = time.monotonic()
            with suppress(errors.ApiError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await api.version()
            await asyncio.sleep(CHECK_SECONDS)

    @property
    def answer_age(self) -> float:
        """Seconds since the API server's last answer; infinite before the first."""
        answered = self._session.last_answer
        return time.monotonic() - answered if answered is not None else float("inf")

    def liveness(self) -> str:
        """Why the kubelet should restart the process (core/v1 Probe); empty if it should not.

        An API server that does not answer is no reason: a restart would not help.
        """
        now = time.monotonic()
        if now - self._checked > STUCK_SECONDS:
            return "the event loop is stuck"
        if not self.watching or self.answer_age > SILENT_SECONDS:
            return ""
        for kind, watch in self._watches.items():
            if watch.misses >= MAX_MISSES:
                return f"the watch of {kind.plural} misses changes"
            if now - watch.listed > self._list_limit:
                return f"{kind.plural} cannot be listed"
        return ""

    def readiness(self) -> str:
        """Why the process cannot do its work now (core/v1 Probe); empty if it can."""
        if self.answer_age > SILENT_SECONDS:
            return "the API server does not answer"
        if not (self.watching or self.standing_by):
            return "the initial list is not complete"
        return ""
