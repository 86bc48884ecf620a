"""Two jobs of the same name at the same time, in two namespaces."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.cluster.client import Object
from tests.e2e.cluster import Setup, fresh_cluster
from tests.e2e.finished import Finished, finish
from tests.e2e.jobs import small_job
from tests.e2e.storage import BUCKET

STEPS = (6, 9)


@pytest.fixture(scope="module")
def cache() -> str:
    """A folder for class images that is still empty."""
    return f"s3://{BUCKET}/class-images/{uuid.uuid4()}"


@pytest.fixture(scope="module")
def pair(setup: Setup, cache: str) -> Iterator[list[Finished]]:
    """Two jobs that have trained at the same time."""
    setup.operator.start()
    jobs = [one_pod(setup, steps, cache) for steps in STEPS]
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        clusters = [stack.enter_context(fresh_cluster(setup)) for _ in jobs]
        yield list(pool.map(finish, clusters, jobs))


def one_pod(setup: Setup, steps: int, cache: str) -> Object:
    """A job with one pod, with its class images in the folder."""
    job = small_job(setup.storage, steps=steps, nodes=1)
    job["spec"]["prior"]["cache"] = cache
    return job


def test_each_tells_of_itself(pair: list[Finished]) -> None:
    for finished, steps in zip(pair, STEPS, strict=True):
        status = finished.status
        assert status["progress"]["step"] == steps
        # The last one may come too late to be asked for.
        assert finished.run in status["lastCheckpoint"]["uri"]
        assert status["artifacts"]["export"] == f"{finished.run}/export"
        assert ("Succeeded", f"The model is in {finished.run}/export") in finished.cluster.events(
            "mug"
        )


def test_each_has_a_result_of_its_own(pair: list[Finished]) -> None:
    one, other = (finished.cluster.storage.weights(finished.run) for finished in pair)
    assert one.keys() == other.keys()
    assert one != other  # one of them has trained for longer


def test_they_share_their_class_images(pair: list[Finished], cache: str) -> None:
    names = [found.relative for found in pair[0].cluster.storage.below(cache)]
    assert len([name for name in names if name.endswith(".png")]) == 2  # and not four


def test_a_job_goes_after_its_time_to_live_and_its_result_stays(pair: list[Finished]) -> None:
    finished, other = pair
    cluster = finished.cluster
    written = cluster.storage.digests(finished.run)
    cluster.patch("mug", {"runtime": {"ttlSecondsAfterFinished": 1}})
    cluster.wait_gone("mug")
    assert cluster.storage.digests(finished.run) == written
    assert other.cluster.job("mug") == other.job
