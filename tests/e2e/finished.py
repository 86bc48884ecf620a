"""A job that was followed from `kubectl apply` to its end."""

from __future__ import annotations

from dataclasses import dataclass

from tests.cluster.client import Object
from tests.e2e.cluster import Cluster


@dataclass(frozen=True)
class Finished:
    """A job that has succeeded, and what was seen on the way."""

    cluster: Cluster
    job: Object
    run: str
    """The folder of its results in storage."""
    seen: list[tuple[str, str]]
    """Its phases and stages, in order."""

    @property
    def name(self) -> str:
        """Its name."""
        name: str = self.job["metadata"]["name"]
        return name

    @property
    def status(self) -> Object:
        """Its last status."""
        status: Object = self.job["status"]
        return status


def finish(cluster: Cluster, job: Object, timeout: float = 240) -> Finished:
    """Apply a job and follow it until it has succeeded."""
    name = job["metadata"]["name"]
    cluster.apply(job)
    with cluster.watching(name) as seen:
        done = cluster.wait_phase(name, "Succeeded", timeout=timeout)
    return Finished(cluster, done, cluster.run(name), seen)
