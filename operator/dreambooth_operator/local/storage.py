"""The storage of a local run: the job's own server, or an embedded SeaweedFS when it names none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_operator.local.objects import ObjectStorage, split
from dreambooth_operator.local.state import State


@dataclass(frozen=True)
class LocalStorage:
    """Storage that is ready for a run."""

    job: DreamBoothJob
    """The job, with the endpoint to use."""
    environment: dict[str, str]
    """This process's environment, with the credentials to use."""
    embedded: bool

    @property
    def objects(self) -> ObjectStorage:
        """A client with these settings."""
        return ObjectStorage(self.job.spec.storage, self.environment)


def needs_embedded(job: DreamBoothJob) -> bool:
    """The job uses s3:// and names no server."""
    return job.spec.storage.endpoint_url is None and bool(buckets(job))


def buckets(job: DreamBoothJob) -> set[str]:
    """Every bucket that the job names."""
    return {split(uri)[1] for uri in _strings(resolved(job)["spec"]) if uri.startswith("s3://")}


@contextmanager
def storage_for(job: DreamBoothJob, state: State, embedded: bool) -> Iterator[LocalStorage]:
    """The job's storage; an embedded server has the job's buckets, and stops at the end.

    Hold the state's lock: two servers must not write to one folder.
    """
    if not embedded:
        yield LocalStorage(job, dict(os.environ), embedded=False)
        return
    from dreambooth_operator.local.seaweed import REGION, SeaweedServer

    with SeaweedServer(state.storage) as server:
        for bucket in sorted(buckets(job)):
            server.create_bucket(bucket)
        job = job.model_copy(deep=True)
        job.spec.storage.endpoint_url = server.endpoint_url
        job.spec.storage.region = REGION
        job.spec.storage.addressing_style = "path"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        yield LocalStorage(job, kept | server.environment, embedded=True)


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _strings(item)
    elif isinstance(tree, str):
        yield tree
