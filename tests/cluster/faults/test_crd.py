"""A cluster without the DreamBoothJob's definition, or with another one than the operator's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.client import ApiError
from tests.cluster.faults.crd import (
    definition,
    delete_definition,
    ensure_definition,
    replace_definition,
    schema,
)
from tests.cluster.faults.harness import DREAMBOOTH_JOBS, Harness, job

WAIT_SECONDS = 4
ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}


def test_the_operator_waits_for_the_definition(stopped_harness: Harness) -> None:
    harness = stopped_harness
    delete_definition(harness.cluster)
    harness.operator.launch()
    harness.wait(lambda: "apply the CRD" in harness.operator.tail())
    harness.cluster.sleep(WAIT_SECONDS)
    assert harness.operator.tail().count("apply the CRD") == 1
    assert harness.probe("/readyz") == "the initial list is not complete"
    assert harness.probe("/healthz") == ""
    ensure_definition(harness.cluster)
    harness.wait(lambda: harness.probe("/readyz") == "")
    harness.train()


def test_a_definition_that_is_deleted_and_comes_back_is_watched_again(harness: Harness) -> None:
    harness.train()
    first = harness.operator.pid
    delete_definition(harness.cluster)
    harness.wait(lambda: harness.children() == [])
    harness.wait(lambda: harness.probe("/readyz"))
    assert harness.probe("/healthz") == ""
    ensure_definition(harness.cluster)
    harness.wait(lambda: harness.probe("/readyz") == "")
    harness.train("other")
    assert harness.operator.pid == first
    assert harness.metric("jobs") == 1


@pytest.fixture
def newer_definition(harness: Harness) -> Iterator[None]:
    """A definition that knows `spec.prior.fromTheFuture`."""
    newer = definition()
    known = schema(newer)["spec"]["properties"]["prior"]["properties"]
    known["fromTheFuture"] = {"type": "string"}
    replace_definition(harness.cluster, newer)
    yield
    replace_definition(harness.cluster, definition())


@pytest.fixture
def mutable_definition(harness: Harness) -> Iterator[None]:
    """A definition that allows everything, also a change of the spec of a job that runs."""
    mutable = definition()
    mutable["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {"type": "object", **ANYTHING}
    replace_definition(harness.cluster, mutable)
    yield
    replace_definition(harness.cluster, definition())


@pytest.mark.usefixtures("newer_definition")
def test_a_spec_that_is_not_understood_is_told(harness: Harness) -> None:
    before = harness.train("other")
    harness.wait(lambda: created_from_the_future(harness))
    message = harness.wait(lambda: not_understood(harness))
    assert "fromTheFuture" in message
    harness.wait(lambda: harness.children() == [])
    assert harness.settles()
    assert harness.training("other") == before


def test_training_whose_spec_is_no_longer_understood_goes_on(
    harness: Harness, request: pytest.FixtureRequest
) -> None:
    before = harness.train()
    request.getfixturevalue("mutable_definition")
    harness.wait(lambda: changed(harness, "yes"))
    harness.wait(lambda: not_understood(harness))
    assert harness.settles()
    assert harness.training() == before
    assert harness.status()["phase"] == "Running"
    assert changed(harness, None)
    harness.progress_servers["mug"].progress["step"] = 8
    harness.wait(harness.reports)
    assert harness.condition("Accepted")["status"] == "True"
    assert harness.training() == before


def created_from_the_future(harness: Harness) -> bool:
    """Create a job with the new field, once the API server keeps it."""
    wanted = job("mug")
    wanted["spec"]["prior"] = {"fromTheFuture": "yes"}
    found = harness.cluster.create(DREAMBOOTH_JOBS.format(harness.namespace), wanted)
    if "fromTheFuture" in found["spec"]["prior"]:
        return True
    harness.cluster.delete(harness.job_path())
    return False


def changed(harness: Harness, future: str | None) -> bool:
    """Change a spec, once the API server lets that be done."""
    try:
        harness.cluster.patch(harness.job_path(), {"spec": {"prior": {"fromTheFuture": future}}})
    except ApiError:
        return False
    return bool(harness.job()["spec"]["prior"].get("fromTheFuture") == future)


def not_understood(harness: Harness) -> str:
    """The message of the condition that reports an unreadable spec, or an empty string."""
    found = harness.condition("Accepted")
    refused = found.get("reason") == "InvalidSpec" and found["status"] == "False"
    return str(found["message"]) if refused else ""
