"""The storage of a local run: the job's own server, or an embedded SeaweedFS when it names none."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreambooth_api.models.job import DreamBoothJob, resolved
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from dreambooth_storage import AccessKey, Storage, StorageSettings, TransferPolicy
from dreambooth_storage.uri import parse

if TYPE_CHECKING:
    from dreambooth_operator.local.seaweed import SeaweedServer

TRANSFER_POLICY = TransferPolicy(attempts=4, max_delay=2.0)
"""A user waits for the answer: give up after seconds, not after half a minute as in a cluster."""


@dataclass(frozen=True)
class LocalStorage:
    """The storage of a run (spec.storage), open and with its credentials."""

    job: DreamBoothJob
    """The job, with the endpoint to use."""
    environment: dict[str, str]
    """This process's environment, with the credentials to use."""
    embedded: bool
    client: Storage
    """Open for as long as the storage is."""


def needs_embedded(job: DreamBoothJob) -> bool:
    """Whether the job uses s3:// and names no server (spec.storage.endpointURL)."""
    return job.spec.storage.endpoint_url is None and bool(buckets(job))


def buckets(job: DreamBoothJob) -> set[str]:
    """The buckets of all URIs in the job (spec)."""
    return {parse(uri).bucket for uri in _strings(resolved(job)["spec"]) if uri.startswith("s3://")}


def with_endpoint(job: DreamBoothJob, environment: Mapping[str, str]) -> DreamBoothJob:
    """The job with the server of AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, where it names none."""
    url = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if not url or not needs_embedded(job):
        return job
    job = job.model_copy(deep=True)
    job.spec.storage.endpoint_url = url
    return job


@contextmanager
def storage_for(job: DreamBoothJob, state: State, embedded: bool) -> Iterator[LocalStorage]:
    """Open the job's storage; an embedded server gets the job's buckets, and is stopped at the end.

    Hold the state's lock meanwhile: two servers must not write to one folder.

    Raises:
        SeaweedError: The embedded server does not start.
    """
    if not embedded:
        with _client(job, os.environ) as client:
            yield LocalStorage(job, dict(os.environ), embedded=False, client=client)
        return
    # Only here: a job with a server of its own needs no embedded one.
    from dreambooth_operator.local.seaweed import SeaweedServer

    with SeaweedServer(state.storage) as server:
        for bucket in sorted(buckets(job)):
            server.create_bucket(bucket)
        with _embedded(job, server) as storage:
            yield storage


@contextmanager
def storage_to_read(job: DreamBoothJob, state: State, embedded: bool) -> Iterator[LocalStorage]:
    """Open the job's storage to read; the embedded server of a run that is going on is shared.

    Raises:
        UserError: The embedded server of that run is not ready yet, or the run has none.
        SeaweedError: The embedded server does not start.
    """
    from dreambooth_operator.local.seaweed import SeaweedServer

    if not embedded:
        with storage_for(job, state, embedded) as storage:
            yield storage
    elif not state.is_locked():
        with state.locked(), storage_for(job, state, embedded) as storage:
            yield storage
    else:
        server = SeaweedServer(state.storage)
        if not server.connect():
            running = state.running()
            raise UserError(
                f"{state.folder}: the storage of the run is starting; try again in a few seconds"
                if running and running.record.embedded
                else f"{state.folder} is in use by another `dreambooth`, which has not started the"
                " embedded storage; try again when it has ended"
            )
        with _embedded(job, server) as storage:
            yield storage


@contextmanager
def _embedded(job: DreamBoothJob, server: "SeaweedServer") -> Iterator[LocalStorage]:
    """The storage of a running embedded server."""
    from dreambooth_operator.local.seaweed import REGION

    # The caller's job is the record of the run: the endpoint has another port the next time.
    job = job.model_copy(deep=True)
    job.spec.storage.endpoint_url = server.endpoint_url
    job.spec.storage.region = REGION
    job.spec.storage.addressing_style = "path"
    job.spec.storage.anonymous_buckets = []  # it has no public ones
    # A profile or a session token of the user's would be sent to the embedded server.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    with _client(job, server.environment) as client:
        yield LocalStorage(job, kept | server.environment, embedded=True, client=client)


def _client(job: DreamBoothJob, environment: Mapping[str, str]) -> Storage:
    settings = StorageSettings.of(job.spec.storage)
    return Storage(
        settings, policy=TRANSFER_POLICY, credentials=AccessKey.from_environment(environment)
    )


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _strings(item)
    elif isinstance(tree, str):
        yield tree
