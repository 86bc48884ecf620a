"""Whether the operator is well: what /healthz and /readyz say."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.kinds import Kind
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.watch.informer import WatchHealth

PULSE_SECONDS = 10.0
ANSWER_SECONDS = 5.0
STUCK_SECONDS = 60.0
"""The event loop beats every `PULSE_SECONDS`; after this long without a beat it is stuck."""
SILENT_SECONDS = 30.0
"""The API server is asked with every beat; after this long without an answer it is away."""
MISSES = 2
"""Resyncs in a row that find missed changes before a watch counts as dead."""
UNLISTED_RESYNCS = 3
"""Resyncs that may fail before a kind counts as unreadable."""


class Vitals:
    """Feels the pulse. Its answers may be asked for from any thread."""

    def __init__(
        self, session: Session, watches: Mapping[Kind, WatchHealth], resync_seconds: float
    ) -> None:
        self._session = session
        self._watches = watches
        self._patience = UNLISTED_RESYNCS * resync_seconds + STUCK_SECONDS
        self._beat = time.monotonic()
        self.watching = False
        """Everything was listed, and is watched."""
        self.standing_by = False
        """Another process leads, and this one is ready to take over."""

    async def run(self, api: Api) -> None:
        """Beat until cancelled. The answers keep the clock right as well."""
        while True:
            self._beat = time.monotonic()
            with suppress(errors.ApiError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await api.version()
            await asyncio.sleep(PULSE_SECONDS)

    @property
    def silence(self) -> float:
        """Seconds since the API server answered last."""
        answered = self._session.last_answer
        return time.monotonic() - answered if answered is not None else float("inf")

    def alive(self) -> str:
        """Why the process should be restarted; empty: it should not.

        An API server that does not answer is no reason: a restart would not help.
        """
        now = time.monotonic()
        if now - self._beat > STUCK_SECONDS:
            return "the event loop is stuck"
        if not self.watching or self.silence > SILENT_SECONDS:
            return ""
        for kind, watch in self._watches.items():
            if watch.misses >= MISSES:
                return f"the watch of {kind.plural} misses changes"
            if now - watch.listed > self._patience:
                return f"{kind.plural} cannot be listed"
        return ""

    def ready(self) -> str:
        """Why it cannot do its work now; empty: it can."""
        if self.silence > SILENT_SECONDS:
            return "the API server does not answer"
        if not (self.watching or self.standing_by):
            return "not everything is listed yet"
        return ""
