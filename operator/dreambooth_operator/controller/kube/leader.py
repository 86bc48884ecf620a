"""Leader election: of several replicas, the one that holds a Lease (coordination.k8s.io/v1) acts.

As in client-go, another process's Lease counts as expired when it has not changed for its duration
by this process's own monotonic clock, so no two clocks are ever compared.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.kinds import LEASE
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)

OVERDUE = "the Lease was not renewed in time: another process may lead"
RESTORED = "the version of the Lease went back: etcd was restored from a backup"


@dataclass(frozen=True, slots=True)
class Lease:
    """The Lease that replicas compete for (coordination.k8s.io/v1). Times are in seconds."""

    namespace: str
    name: str
    duration_seconds: float
    """Time without a renewal after which another process takes over."""
    renew_seconds: float
    """Time between two renewals; at most half of `duration_seconds`."""


class Leader:
    """One process's part in the election: `acquire`, then `hold`, then `release`.

    Writes must be preceded by `ensure`, which raises `NotLeadingError`.
    """

    def __init__(self, api: Api, lease: Lease, identity: str, now: Now) -> None:
        self._api = api
        self._lease = lease
        self._identity = identity
        self._now = now
        self._observed_spec: Manifest = {}
        self._version = 0
        """resourceVersion of the Lease when it was read last."""
        self._observed = 0.0
        """When the Lease's spec was first observed as it is now, by time.monotonic()."""
        self._renewed = 0.0
        """When this process renewed the Lease last, by time.monotonic()."""
        self._restored = False
        """The Lease's version went back: etcd was restored, and all that was watched is stale."""
        self.leads = False

    def ensure(self) -> None:
        """Check that this process still leads; it may have been stalled.

        Raises:
            NotLeadingError: Another process may lead by now.
        """
        if self._overdue:
            raise errors.NotLeadingError(OVERDUE)

    async def acquire(self) -> None:
        """Wait until this process leads, however long that takes; tries every `renew_seconds`."""
        logger.info("waiting for the Lease %s/%s", self._lease.namespace, self._lease.name)
        while not await self._try_renew():
            await asyncio.sleep(self._lease.renew_seconds)
        self.leads = True
        logger.info("this process leads")

    async def hold(self, on_lost: Callable[[], None]) -> None:
        """Renew the Lease until cancelled.

        Calls `on_lost` when another process may lead by now, or etcd was restored from a backup.
        """
        while not self._overdue and not self._restored:
            await asyncio.sleep(self._lease.renew_seconds)
            await self._try_renew()
        self.leads = False
        logger.critical(RESTORED if self._restored else OVERDUE)
        on_lost()

    async def release(self) -> None:
        """Give the Lease up, so that another process can lead at once. Never raises an ApiError."""
        if not self.leads:
            return
        self.leads = False
        try:
            lease = await self._read()
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                # As client-go releases a Lease: the API server refuses a duration of 0.
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASE, lease)
        except errors.ApiError as error:
            logger.warning("the Lease was not released: %s", error)

    @property
    def _overdue(self) -> bool:
        """Whether this process must stop: well before others take over."""
        limit = self._lease.duration_seconds - self._lease.renew_seconds / 2
        return time.monotonic() - self._renewed >= limit

    async def _try_renew(self) -> bool:
        """Try to take or renew the Lease; returns whether this process holds it now."""
        began = time.monotonic()  # the Lease counts from when it was asked for, not answered
        try:
            # Shorter than the client's time-out, so that a hanging request leaves time for another
            # try.
            async with asyncio.timeout(self._lease.renew_seconds):
                held = await self._take()
        except (errors.ApiError, TimeoutError) as error:
            logger.warning("the Lease could not be renewed: %s", error or "no answer in time")
            return False
        if held:
            self._renewed = began
        return held

    async def _take(self) -> bool:
        lease = await self._read()
        if lease is None:
            await self._api.create(LEASE, self._new())
            return True
        spec: dict[str, Any] = lease.setdefault("spec", {})
        # Any change counts as a sign of life; renewTime is by the other process's clock, and is not
        # used.
        if spec != self._observed_spec:
            self._observed_spec, self._observed = dict(spec), time.monotonic()
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        # Of two processes that get here at once, the resourceVersion lets only one replace the
        # Lease.
        transitions = spec.get("leaseTransitions", 0) + (holder != self._identity)
        lease["spec"] = self._spec(spec if holder == self._identity else {}, transitions)
        await self._api.replace(LEASE, lease)
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        seconds: float = spec.get("leaseDurationSeconds", self._lease.duration_seconds)
        return time.monotonic() - self._observed > seconds

    async def _read(self) -> Manifest | None:
        try:
            lease = await self._api.get(LEASE, self._lease.namespace, self._lease.name)
        except errors.NotFoundError:
            return None
        version = int(lease["metadata"]["resourceVersion"])
        self._restored |= version < self._version
        self._version = version
        return lease

    def _new(self) -> Manifest:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self._lease.name, "namespace": self._lease.namespace},
            "spec": self._spec({}, 0),
        }

    def _spec(self, held: dict[str, Any], transitions: int) -> dict[str, Any]:
        """Spec of the Lease while this process holds it; times are meta/v1 MicroTimes."""
        time_now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(int(self._lease.duration_seconds), 1),
            "acquireTime": held.get("acquireTime", time_now),
            "renewTime": time_now,
            "leaseTransitions": transitions,
        }
