"""Decisions are carried out on a real API server, and no object is ever adopted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dreambooth_api.models.status import AttemptStatus, Condition, Counters, Status
from dreambooth_api.models.storage import Storage
from dreambooth_operator.controller.decide.defaults import JobDefaults
from dreambooth_operator.controller.decide.restart import attempt_children
from dreambooth_operator.controller.decide.state.decision import (
    Apply,
    Decision,
    DeleteDreamBoothJob,
    DeleteJob,
    Event,
)
from dreambooth_operator.controller.decide.state.observed import Observed
from dreambooth_operator.controller.kube import errors
from dreambooth_operator.controller.kube.client import FIELD_MANAGER
from dreambooth_operator.controller.kube.kinds import (
    CONFIG_MAP,
    DREAMBOOTH_JOB,
    JOB,
    SERVICE,
    Kind,
)
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.reconciler.observe import InvalidSpecError
from dreambooth_operator.manifests.content import HASH_ANNOTATION, with_content_hash
from dreambooth_operator.manifests.resources import config_map, service
from tests.cluster.kubectl import Kubectl
from tests.operator.controller.parts import Parts, job_body, parts

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def _first_attempt(observed: Observed) -> Decision:
    children = attempt_children(observed.job, 0, "trainer:1", counters=Counters(), avoid=[])
    return Decision(
        actions=tuple(Apply(child) for child in children),
        status=Status(phase="Starting", attempts=[AttemptStatus(number=0, started=NOW)]),
        events=(Event("Normal", "AttemptStarted", "Attempt 0 was started"),),
    )


async def _act(own: Parts, observed: Observed, decision: Decision) -> bool:
    """Carry out the whole decision; whether anything changed."""
    carried_out = await own.executor.execute(observed.job, decision.actions)
    return await own.executor.report(observed.job, decision) or carried_out


def test_attempt_is_started_and_reported(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            assert observed.damaged == {"Service", "ConfigMap"}
            await _act(own, observed, _first_attempt(observed))
            # Answers go into the cache: no watch runs here.
            observed = await own.observed(namespace, "mug")
            assert [job.name for job in observed.attempts] == ["mug-0"]
            assert observed.damaged == frozenset()
            assert observed.job.status is not None
            assert observed.job.status.phase == "Starting"
            assert observed.job.status.attempts[0].started == NOW.replace(microsecond=0)
            job = await own.api.get(JOB, namespace, "mug-0")
            managers = {field["manager"] for field in job["metadata"]["managedFields"]}
            assert FIELD_MANAGER in managers

    asyncio.run(work())
    job = kubectl.get("job", "mug-0")
    owner = kubectl.get("dbj", "mug")
    assert job is not None
    assert owner is not None
    assert job["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    assert owner["status"]["attempts"][0]["started"] == "2026-03-01T12:00:00Z"
    events = kubectl.events("mug")
    assert [(each["reason"], each["type"]) for each in events] == [("AttemptStarted", "Normal")]
    assert events[0]["source"]["component"] == "dreambooth-operator"


def test_job_is_observed_with_the_operators_defaults(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        defaults = JobDefaults(queue="gpus", storage=Storage(endpoint_url="http://minio:9000"))
        async with parts(defaults) as own:
            observed = await own.created(namespace, "mug")
            assert observed.defaulted == ("spec.storage", "spec.runtime.queue")
            await _act(own, observed, _first_attempt(observed))

    asyncio.run(work())
    written, config = kubectl.get("dbj", "mug"), kubectl.get("configmap", "mug-config")
    assert written is not None
    assert config is not None
    assert "queue" not in written["spec"]["runtime"]
    assert "endpointURL: http://minio:9000" in config["data"]["job.yaml"]
    assert "queue: gpus" in config["data"]["job.yaml"]


def test_what_changes_nothing_is_no_change(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            apply = Decision(actions=(Apply(service(observed.job, 0)),))
            assert await _act(own, observed, apply)
            await _act(own, observed, apply)  # from here on the fields are the operator's by apply
            assert not await _act(own, observed, apply)
            report = Decision(status=Status(phase="Pending"))
            assert await _act(own, observed, report)
            observed = await own.observed(namespace, "mug")
            assert not await _act(own, observed, report)

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["service", "configmap"])
def test_object_that_the_job_does_not_control_is_left_alone(
    kubectl: Kubectl, namespace: str, kind: str
) -> None:
    name = {"service": "mug-ranks", "configmap": "mug-config"}[kind]
    specific = {"service": {"spec": {"ports": [{"port": 80}]}}, "configmap": {"data": {"a": "b"}}}
    versioned = {"service": "Service", "configmap": "ConfigMap"}[kind]
    kubectl.create(
        {"apiVersion": "v1", "kind": versioned, "metadata": {"name": name}, **specific[kind]}
    )
    before = kubectl.get(kind, name)

    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            with pytest.raises(errors.NameTakenError) as taken:
                await _act(own, observed, _first_attempt(observed))
            assert str(taken.value) == f"{versioned} {name}"

    asyncio.run(work())
    assert kubectl.get(kind, name) == before
    assert kubectl.get("job", "mug-0") is None


def test_object_that_took_the_place_of_a_child_is_left_alone(
    kubectl: Kubectl, namespace: str
) -> None:
    theirs = {"metadata": {"name": "mug-config"}, "data": {"a": "b"}}

    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            apply = Decision(actions=(Apply(config_map(observed.job)),))
            await _act(own, observed, apply)
            # No watch runs here: the cache still holds the child.
            await asyncio.to_thread(kubectl, "delete", "configmap", "mug-config")
            body = {"apiVersion": "v1", "kind": "ConfigMap"} | theirs
            await asyncio.to_thread(kubectl.create, body)
            with pytest.raises(errors.ConflictError):
                await _act(own, observed, apply)

    asyncio.run(work())
    config = kubectl.get("configmap", "mug-config")
    assert config is not None
    assert config["data"] == {"a": "b"}


def test_child_that_only_the_api_server_knows_is_recognised(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await _act(own, observed, _first_attempt(observed))
        async with parts() as own:  # another process, whose cache holds the job only
            own.cache.update(DREAMBOOTH_JOB, await own.api.get(DREAMBOOTH_JOB, namespace, "mug"))
            observed = await own.observed(namespace, "mug")
            # Its record is open, so the API server is asked before it counts as gone.
            assert [job.name for job in observed.attempts] == ["mug-0"]
            await _act(own, observed, replace(_first_attempt(observed), status=None, events=()))

    asyncio.run(work())


def test_status_of_a_job_that_changed_meanwhile_is_not_written(
    kubectl: Kubectl, namespace: str
) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await asyncio.to_thread(kubectl, "annotate", "dbj", "mug", "note=changed")
            with pytest.raises(errors.ConflictError):
                await _act(own, observed, Decision(status=Status(phase="Running")))
            assert await own.observer.refresh(Key(namespace, "mug"))
            assert not await own.observer.refresh(Key(namespace, "mug"))
            observed = await own.observed(namespace, "mug")
            await _act(own, observed, Decision(status=Status(phase="Running")))

    asyncio.run(work())
    job = kubectl.get("dbj", "mug")
    assert job is not None
    assert job["status"]["phase"] == "Running"


def test_whole_status_is_replaced(kubectl: Kubectl, namespace: str) -> None:
    condition = Condition(
        type="Accepted", status="True", reason="Valid", message="", last_transition_time=NOW
    )

    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            first = Status(phase="Running", stage="Training", conditions=[condition])
            await _act(own, observed, Decision(status=first))
            observed = await own.observed(namespace, "mug")
            await _act(own, observed, Decision(status=Status(phase="Failed")))

    asyncio.run(work())
    job = kubectl.get("dbj", "mug")
    assert job is not None
    assert "stage" not in job["status"]
    assert job["status"]["conditions"] == []


def test_job_is_deleted_in_the_foreground(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await _act(own, observed, _first_attempt(observed))
            job = (await own.observed(namespace, "mug")).attempts[0]
            wrong = Decision(actions=(DeleteJob(job.name, "00000000-uid-of-another"),))
            await _act(own, observed, wrong)
            assert await own.api.get(JOB, namespace, job.name)
            await _act(own, observed, Decision(actions=(DeleteJob(job.name, job.uid),)))
            left = (await own.observed(namespace, "mug")).attempts
            assert all(view.deleting for view in left)
            await _act(own, observed, Decision(actions=(DeleteJob(job.name, job.uid),)))

    asyncio.run(work())


def test_dreambooth_job_is_deleted_when_its_time_is_over(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await _act(own, observed, Decision(actions=(DeleteDreamBoothJob(),)))
            assert await own.observer.refresh(Key(namespace, "mug"))
            assert await own.observer.observe(Key(namespace, "mug")) is None

    asyncio.run(work())
    assert kubectl.get("dbj", "mug") is None


def test_status_that_cannot_be_read_counts_as_empty(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            await own.created(namespace, "mug")
            body = await own.api.get(DREAMBOOTH_JOB, namespace, "mug")
            body["metadata"]["resourceVersion"] = str(int(body["metadata"]["resourceVersion"]) + 1)
            body["status"] = {"phase": "Dancing", "attempts": "many"}
            own.cache.update(DREAMBOOTH_JOB, body)
            observed = await own.observed(namespace, "mug")
            assert observed.job.status is None

    asyncio.run(work())


def test_spec_of_another_version_is_refused_in_the_status(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            body = await own.api.create(DREAMBOOTH_JOB, job_body(namespace, "mug"))
            body["spec"]["inventedLater"] = True
            own.cache.update(DREAMBOOTH_JOB, body)
            with pytest.raises(InvalidSpecError) as error:
                await own.observer.observe(Key(namespace, "mug"))
            await own.executor.report_invalid_spec(error.value)

    asyncio.run(work())
    job = kubectl.get("dbj", "mug")
    assert job is not None
    condition = job["status"]["conditions"][0]
    assert (condition["type"], condition["status"]) == ("Accepted", "False")
    assert condition["reason"] == "InvalidSpec"
    assert "spec.inventedLater: unknown field" in condition["message"]


def test_event_that_cannot_be_posted_does_no_harm(namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            meta = observed.job.metadata.model_copy(update={"namespace": "no-such-namespace"})
            lost = observed.job.model_copy(update={"metadata": meta})
            await own.executor.post(lost, Event("Normal", "Running", "All ranks have joined"))

    asyncio.run(work())


def test_service_that_was_deleted_by_hand_is_damaged(kubectl: Kubectl, namespace: str) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await _act(own, observed, _first_attempt(observed))
            body = await own.api.get(SERVICE, namespace, "mug-ranks")
            await asyncio.to_thread(kubectl, "delete", "service", "mug-ranks")
            own.informer(namespace).on_event(SERVICE, "DELETED", body)
            assert (await own.observed(namespace, "mug")).damaged == {"Service"}

    asyncio.run(work())


EDITS = {
    "configmap": '{"data": {"job.yaml": "{}"}}',
    "service": '{"spec": {"selector": {"app": "theirs"}}}',
}


@pytest.mark.parametrize(("resource", "kind"), [("configmap", CONFIG_MAP), ("service", SERVICE)])
def test_child_that_was_edited_is_put_back_once(
    kubectl: Kubectl, namespace: str, resource: str, kind: Kind
) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            await _act(own, observed, _first_attempt(observed))
            manifests = {"Service": service(observed.job, 0), "ConfigMap": config_map(observed.job)}
            manifest = manifests[kind.name]
            name = manifest["metadata"]["name"]
            before = await own.api.get(kind, namespace, name)
            patch = ("patch", resource, name, "--type=merge", "-p", EDITS[resource])
            await asyncio.to_thread(kubectl, *patch)
            own.cache.update(kind, await own.api.get(kind, namespace, name))
            observed = await own.observed(namespace, "mug")
            assert observed.damaged == {kind.name}
            await _act(own, observed, Decision(actions=(Apply(manifest),)))
            after = await own.api.get(kind, namespace, name)
            assert (after.get("data"), after.get("spec")) == (
                before.get("data"),
                before.get("spec"),
            )
            assert (await own.observed(namespace, "mug")).damaged == frozenset()

    asyncio.run(work())


@pytest.mark.parametrize("edit", ["another rendering", "a key beside it", "no hash"])
def test_config_map_that_nobody_edited_is_intact(
    kubectl: Kubectl, namespace: str, edit: str
) -> None:
    async def work() -> None:
        async with parts() as own:
            observed = await own.created(namespace, "mug")
            manifest = config_map(observed.job)
            if edit == "another rendering":  # by another version of the operator
                manifest = with_content_hash(manifest | {"data": {"job.yaml": "{}"}})
            elif edit == "a key beside it":
                manifest["data"]["notes"] = "theirs"
            else:
                del manifest["metadata"]["annotations"][HASH_ANNOTATION]
            own.cache.update(CONFIG_MAP, await own.api.create(CONFIG_MAP, manifest))
            assert "ConfigMap" not in (await own.observed(namespace, "mug")).damaged

    asyncio.run(work())
