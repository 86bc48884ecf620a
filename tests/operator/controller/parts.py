"""The operator's parts, put together for a test, against a real control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dreambooth_operator.controller.decide.defaults import JobDefaults
from dreambooth_operator.controller.decide.state.observed import Observed
from dreambooth_operator.controller.kube.client import Api
from dreambooth_operator.controller.kube.clock import ServerClock
from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, Kind
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.session import Session
from dreambooth_operator.controller.reconciler.execute import Executor
from dreambooth_operator.controller.reconciler.observe import NO_DEFAULTS, Observer
from dreambooth_operator.controller.watch.cache import Cache
from dreambooth_operator.controller.watch.informer import Informer
from dreambooth_operator.controller.watch.poller import Poller
from dreambooth_operator.controller.watch.queue import Queue


@dataclass
class Parts:
    """What a test needs of an operator that does not run by itself."""

    session: Session
    api: Api
    clock: ServerClock
    cache: Cache = field(default_factory=Cache)
    queue: Queue[Key] = field(default_factory=Queue)
    defaults: JobDefaults = NO_DEFAULTS

    def __post_init__(self) -> None:
        self.poller = Poller(15, self.clock.now, lambda key, _: self.queue.add(key))
        self.observer = Observer(self.api, self.cache, self.poller, self.defaults)
        self.executor = Executor(self.api, self.cache, self.clock.now)

    def informer(
        self,
        *namespaces: str,
        on_repair: Callable[[Kind, int], None] = lambda *_: None,
        on_restored: Callable[[], None] = lambda: None,
        lag_seconds: float = 0.0,
    ) -> Informer:
        """What keeps the cache up to date with these namespaces."""
        return Informer(
            self.api, self.cache, self.queue, namespaces, on_repair, on_restored, lag_seconds
        )

    async def created(self, namespace: str, name: str, **spec: Any) -> Observed:
        """A new DreamBoothJob, as the operator sees it."""
        body = await self.api.create(DREAMBOOTH_JOB, job_body(namespace, name, **spec))
        self.cache.update(DREAMBOOTH_JOB, body)
        return await self.observed(namespace, name)

    async def observed(self, namespace: str, name: str) -> Observed:
        """The job as the operator sees it now."""
        observed = await self.observer.observe(Key(namespace, name))
        assert observed is not None
        return observed


def job_body(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A DreamBoothJob as a user writes it."""
    return {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "s3://models/sd15"},
            "subjects": [{"images": "s3://data/mug", "identifier": "zwx", "classNoun": "mug"}],
            "output": "s3://results/runs",
            "runtime": {"nodes": 2, "gpusPerNode": 0},
            **spec,
        },
    }


@asynccontextmanager
async def parts(defaults: JobDefaults = NO_DEFAULTS) -> AsyncIterator[Parts]:
    """The parts, connected to the API server that KUBECONFIG names."""
    clock = ServerClock()
    session = Session(clock, lambda *_: None)
    await session.load()
    api = Api(session)
    try:
        yield Parts(session, api, clock, defaults=defaults)
    finally:
        await api.close()
