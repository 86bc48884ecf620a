"""A cluster without the DreamBoothJob's definition, or with another one than the operator's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.bad_days.day import DREAMBOOTH_JOBS, Day, job
from tests.cluster.bad_days.definition import (
    definition,
    delete_definition,
    ensure_definition,
    replace_definition,
    schema,
)
from tests.cluster.client import ApiError

WAIT_SECONDS = 4
ANYTHING = {"x-kubernetes-preserve-unknown-fields": True}


def test_the_operator_waits_for_the_definition(stopped_day: Day) -> None:
    day = stopped_day
    delete_definition(day.cluster)
    day.operator.launch()
    day.wait(lambda: "apply the CRD" in day.operator.tail())
    day.cluster.sleep(WAIT_SECONDS)
    assert day.operator.tail().count("apply the CRD") == 1
    assert day.probe("/readyz") == "not everything is listed yet"
    assert day.probe("/healthz") == ""
    ensure_definition(day.cluster)
    day.wait(lambda: day.probe("/readyz") == "")
    day.train()


def test_a_definition_that_is_deleted_and_comes_back_is_watched_again(day: Day) -> None:
    day.train()
    first = day.operator.pid
    delete_definition(day.cluster)
    day.wait(lambda: day.children() == [])
    day.wait(lambda: day.probe("/readyz"))
    assert day.probe("/healthz") == ""
    ensure_definition(day.cluster)
    day.wait(lambda: day.probe("/readyz") == "")
    day.train("other")
    assert day.operator.pid == first
    assert day.metric("jobs") == 1


@pytest.fixture
def newer_definition(day: Day) -> Iterator[None]:
    """A definition that knows `spec.prior.fromTheFuture`."""
    newer = definition()
    known = schema(newer)["spec"]["properties"]["prior"]["properties"]
    known["fromTheFuture"] = {"type": "string"}
    replace_definition(day.cluster, newer)
    yield
    replace_definition(day.cluster, definition())


@pytest.fixture
def mutable_definition(day: Day) -> Iterator[None]:
    """A definition that allows everything, also a change of the spec of a job that runs."""
    mutable = definition()
    mutable["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = {"type": "object", **ANYTHING}
    replace_definition(day.cluster, mutable)
    yield
    replace_definition(day.cluster, definition())


@pytest.mark.usefixtures("newer_definition")
def test_a_spec_that_is_not_understood_is_told(day: Day) -> None:
    before = day.train("other")
    day.wait(lambda: created_from_the_future(day))
    told = day.wait(lambda: not_understood(day))
    assert "fromTheFuture" in told
    day.wait(lambda: day.children() == [])
    assert day.settles()
    assert day.training("other") == before


def test_training_whose_spec_is_no_longer_understood_goes_on(
    day: Day, request: pytest.FixtureRequest
) -> None:
    before = day.train()
    request.getfixturevalue("mutable_definition")
    day.wait(lambda: changed(day, "yes"))
    day.wait(lambda: not_understood(day))
    assert day.settles()
    assert day.training() == before
    assert day.status()["phase"] == "Running"
    assert changed(day, None)
    day.ranks["mug"].progress["step"] = 8
    day.wait(day.reports)
    assert day.condition("Accepted")["status"] == "True"
    assert day.training() == before


def created_from_the_future(day: Day) -> bool:
    """Create a job with the new field, once the API server keeps it."""
    wanted = job("mug")
    wanted["spec"]["prior"] = {"fromTheFuture": "yes"}
    found = day.cluster.create(DREAMBOOTH_JOBS.format(day.namespace), wanted)
    if "fromTheFuture" in found["spec"]["prior"]:
        return True
    day.cluster.delete(day.job_path())
    return False


def changed(day: Day, future: str | None) -> bool:
    """Change a spec, once the API server lets that be done."""
    try:
        day.cluster.patch(day.job_path(), {"spec": {"prior": {"fromTheFuture": future}}})
    except ApiError:
        return False
    return bool(day.job()["spec"]["prior"].get("fromTheFuture") == future)


def not_understood(day: Day) -> str:
    """Why a spec is not understood, as its status tells."""
    found = day.condition("Accepted")
    refused = found.get("reason") == "InvalidSpec" and found["status"] == "False"
    return str(found["message"]) if refused else ""
