"""Leader election: of several replicas, the one that holds a Lease acts.

As client-go does: another's Lease counts as expired when it did not change for its duration by this
process's own monotonic clock, so no two clocks are ever compared.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from dreambooth_operator.controller.app.settings import LeaderElection
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import Now
from dreambooth_operator.controller.kube.kinds import LEASE
from dreambooth_operator.manifests.names import Manifest

logger = logging.getLogger(__name__)


class Leader:
    """The wish to lead, and the Lease once it is held."""

    def __init__(self, api: Api, election: LeaderElection, identity: str, now: Now) -> None:
        self._api = api
        self._election = election
        self._identity = identity
        self._now = now
        self._seen: Manifest = {}
        """spec of the Lease as it was seen last."""
        self._changed = 0.0
        """When it was seen to change, by time.monotonic()."""
        self._renewed = 0.0
        """When the Lease was renewed last, by time.monotonic()."""
        self.leads = False

    def ensure(self) -> None:
        """Raise `NotLeadingError` when somebody else may lead by now: this process stood still."""
        if self._election.enabled and self._overdue:
            raise errors.NotLeadingError(
                "the Lease was not renewed in time: another process may lead"
            )

    async def acquire(self) -> None:
        """Return once this process leads, however long it takes."""
        logger.info("waiting for the Lease %s/%s", self._election.namespace, self._election.name)
        while not await self._renew():
            await asyncio.sleep(self._election.renew_seconds)
        self.leads = True
        logger.info("this process leads")

    async def hold(self, lost: Callable[[], None]) -> None:
        """Renew the Lease until cancelled; calls `lost` when somebody else may lead by now."""
        while not self._overdue:
            await asyncio.sleep(self._election.renew_seconds)
            await self._renew()
        self.leads = False
        logger.critical("the Lease was not renewed in time: another process may lead")
        lost()

    async def release(self) -> None:
        """Let the next one lead at once."""
        if not self.leads:
            return
        self.leads = False
        try:
            lease = await self._read()
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASE, lease)
        except errors.ApiError as error:
            logger.warning("the Lease was not released: %s", error)

    @property
    def _overdue(self) -> bool:
        """Whether it is high time to stop: before others take over."""
        limit = self._election.lease_seconds - self._election.renew_seconds / 2
        return time.monotonic() - self._renewed >= limit

    async def _renew(self) -> bool:
        """Try to take or renew the Lease, and note since when it is held; whether it is."""
        began = time.monotonic()
        held = await self._tried()
        if held:
            self._renewed = began
        return held

    async def _tried(self) -> bool:
        """Try to take or renew the Lease; whether it is held now."""
        try:
            async with asyncio.timeout(self._election.renew_seconds):
                return await self._take()
        except (errors.ApiError, TimeoutError) as error:
            logger.warning("the Lease cannot be had: %s", error or "no answer in time")
            return False

    async def _take(self) -> bool:
        lease = await self._read()
        if lease is None:
            await self._api.create(LEASE, self._new())
            return True
        spec: dict[str, Any] = lease.setdefault("spec", {})
        if spec != self._seen:
            self._seen, self._changed = dict(spec), time.monotonic()
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        transitions = spec.get("leaseTransitions", 0) + (holder != self._identity)
        lease["spec"] = self._spec(spec if holder == self._identity else {}, transitions)
        await self._api.replace(LEASE, lease)
        return True

    def _expired(self, spec: dict[str, Any]) -> bool:
        seconds: float = spec.get("leaseDurationSeconds", self._election.lease_seconds)
        return time.monotonic() - self._changed > seconds

    async def _read(self) -> Manifest | None:
        try:
            return await self._api.get(LEASE, self._election.namespace, self._election.name)
        except errors.NotFoundError:
            return None

    def _new(self) -> Manifest:
        return {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.name,
            "metadata": {"name": self._election.name, "namespace": self._election.namespace},
            "spec": self._spec({}, 0),
        }

    def _spec(self, held: dict[str, Any], transitions: int) -> dict[str, Any]:
        """Spec of the Lease while this process holds it (meta/v1 MicroTime)."""
        time_now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(int(self._election.lease_seconds), 1),
            "acquireTime": held.get("acquireTime", time_now),
            "renewTime": time_now,
            "leaseTransitions": transitions,
        }
