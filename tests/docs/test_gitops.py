"""The health checks on the page about GitOps, run on the statuses that the operator writes."""

from __future__ import annotations

from typing import Any, get_args

import celpy
import lupa
import pytest

from dreambooth_api.contract.conditions import ConditionType
from dreambooth_api.contract.stages import Phase
from dreambooth_api.models.status import Status
from dreambooth_api.parsing import yamljson
from dreambooth_operator.controller.decide.state.observed import Blocked
from tests.charts.rendering import render
from tests.docs.pages import page
from tests.operator.controller.world import World, running

ARGO_CD = {"Succeeded": "Healthy", "Failed": "Degraded", "Suspended": "Suspended"}
FLUX = {"Succeeded": "Current", "Failed": "Failed", "Suspended": "Current"}


def documents(kind: str) -> list[dict[str, Any]]:
    """The page's objects of a kind."""
    blocks = [each for each in page("docs/gitops.md").blocks if each.language == "yaml"]
    found = [document for block in blocks for document in yamljson.documents(block.text)]
    return [document for document in found if document["kind"] == kind]


def life() -> list[Status]:
    """A status of every phase: of a job that is disturbed and succeeds, and of others."""
    blocked = World()
    blocked.blocked = Blocked("NotAllowed", "the operator may not create Jobs here", 60)
    blocked.settle()
    world = World()
    world.settle()
    seen = [blocked.status, world.status]
    world.pass_preflight()
    world.queue_suspends(world.attempt)
    world.settle()
    seen.append(world.status)
    world.queue_admits(world.attempt)
    world.settle()
    seen.append(world.status)
    world.run_attempt()
    seen.append(world.status)
    world.fail()
    seen.append(world.status)
    world.change(suspend=True)
    world.finish_stopping()
    seen.append(world.status)
    return [*seen, ended(0), ended(65)]


def ended(code: int) -> Status:
    """The status of a job whose pods have ended with this exit code."""
    world = running()
    for pod in world.pods_of(world.attempt):
        world.exit(pod, code)
    world.finish_stopping()
    return world.status


LIFE = life()
by_phase = pytest.mark.parametrize("status", LIFE, ids=lambda status: status.phase)


def as_object(status: Status | None) -> dict[str, Any]:
    """A job as it is read from the API."""
    job = {"apiVersion": "dreambooth.dev/v1alpha1", "kind": "DreamBoothJob"}
    written = {} if status is None else {"status": status.model_dump(mode="json", by_alias=True)}
    return job | {"metadata": {"name": "my-mug", "generation": 1}} | written


def argo_cd(status: Status | None) -> dict[str, str]:
    """Health and message by the page's Lua."""
    (config,) = documents("ConfigMap")
    script = config["data"]["resource.customizations.health.dreambooth.dev_DreamBoothJob"]
    lua = lupa.LuaRuntime()
    check = lua.eval(f"function(obj) {script} end")
    return dict(check(lua.table_from(as_object(status), recursive=True)))


def flux(status: Status | None) -> str:
    """The health by the page's CEL: inProgress, failed, current, in the order that Flux asks."""
    (kustomization,) = documents("Kustomization")
    (checks,) = kustomization["spec"]["healthCheckExprs"]
    environment = celpy.Environment()
    seen = {key: celpy.json_to_cel(value) for key, value in as_object(status).items()}
    for field, health in (("failed", "Failed"), ("current", "Current")):
        if environment.program(environment.compile(checks[field])).evaluate(seen):
            return health
    return "InProgress"


def test_every_phase_is_tried() -> None:
    assert {status.phase for status in LIFE} == set(get_args(Phase))


@by_phase
def test_argo_cd_shows_the_state_of_a_job(status: Status) -> None:
    health = argo_cd(status)
    expected = "Degraded" if status.phase == "Pending" else "Progressing"
    assert health["status"] == ARGO_CD.get(status.phase or "", expected)
    messages = {each.message for each in status.conditions}
    if status.phase in ("Pending", "Succeeded", "Failed"):
        assert health["message"] in messages
    else:
        assert health["message"] == status.phase


def test_argo_cd_shows_a_job_that_no_operator_has_seen_as_progressing() -> None:
    assert argo_cd(None)["status"] == "Progressing"


@by_phase
def test_flux_waits_until_the_end_of_a_job(status: Status) -> None:
    expected = "Failed" if status.phase == "Pending" else "InProgress"
    assert flux(status) == FLUX.get(status.phase or "", expected)


def test_an_end_stays_what_it_is_when_the_job_is_no_longer_understood() -> None:
    refused = LIFE[0].conditions
    for status in LIFE[-2:]:
        changed = status.model_copy(update={"conditions": [*refused, *status.conditions[1:]]})
        assert argo_cd(changed) == argo_cd(status)
        assert flux(changed) == flux(status)


def test_kstatus_knows_no_condition_of_a_job() -> None:
    assert {*ConditionType} & {"Ready", "Reconciling", "Stalled"} == set()


def test_values_of_the_operators_objects_are_values_of_the_chart() -> None:
    (release,) = documents("HelmRelease")
    (application,) = (a for a in documents("Application") if "chart" in a["spec"]["source"])
    helm = application["spec"]["source"]["helm"]
    for values in (release["spec"]["values"], helm["valuesObject"]):
        (crd,) = render(values).definitions
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
