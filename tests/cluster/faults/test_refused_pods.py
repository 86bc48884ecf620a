"""Pods that admission refuses: the server's own words are in the status within seconds."""

from __future__ import annotations

import time

import pytest

from tests.cluster.apiserver.server import DoubleClient
from tests.cluster.client import Object
from tests.cluster.faults.harness import Harness

SHOWN_SECONDS = 10.0
WEBHOOK = (
    'Internal error occurred: failed calling webhook "check.example.com": failed to call webhook:'
    ' Post "https://check.tools.svc:443/?timeout=10s": dial tcp 10.96.0.7:443: connect: connection'
    " refused"
)


def quota(harness: Harness, **hard: str) -> str:
    """Create a ResourceQuota; returns its path."""
    path = f"api/v1/namespaces/{harness.namespace}/resourcequotas"
    body = {"metadata": {"name": "team"}, "spec": {"hard": hard}, "status": {"hard": hard}}
    harness.cluster.create(path, body)
    return f"{path}/team"


def wait_shown(harness: Harness, kind: str, *words: str) -> Object:
    """The condition, once it says why pods are refused: within `SHOWN_SECONDS` of the call."""

    def shown() -> Object | None:
        condition = harness.condition(kind)
        found = condition.get("reason") == "FailedCreate"
        return condition if found and all(word in condition["message"] for word in words) else None

    condition: Object = harness.wait(shown, SHOWN_SECONDS)
    return condition


def test_a_full_quota_is_shown_and_the_job_goes_on_when_it_is_raised(harness: Harness) -> None:
    path = quota(harness, pods="0")
    harness.create()
    wait_shown(
        harness,
        "PreflightPassed",
        'pods "mug-preflight-',
        "is forbidden: exceeded quota: team, requested: pods=1, used: pods=0, limited: pods=0",
    )
    assert harness.status()["phase"] == "Preflight"
    # Events are posted after the status was written.
    harness.wait(lambda: "FailedCreate" in harness.events())
    harness.cluster.delete(path)
    harness.start_training()
    assert harness.events().count("FailedCreate") == 1
    assert harness.condition("PodsReady")["status"] == "True"


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            {"serviceAccountName": "nobody"},
            'error looking up service account {}/nobody: serviceaccount "nobody" not found',
        ),
    ],
)
def test_what_the_preflight_lacks_is_named(harness: Harness, runtime: Object, words: str) -> None:
    harness.create(**runtime)
    wait_shown(harness, "PreflightPassed", words.format(harness.namespace))


def test_a_missing_priority_class_is_shown_of_the_attempt(harness: Harness) -> None:
    harness.create(priorityClassName="nothing")
    harness.pass_preflight()
    wait_shown(harness, "PodsReady", "no PriorityClass with name nothing was found")


def test_a_refused_preflight_is_kept_with_its_events(harness: Harness) -> None:
    quota(harness, pods="0")
    harness.create(startDeadlineSeconds=5)
    harness.wait(lambda: harness.status().get("phase") == "Failed", 20)
    assert "exceeded quota: team" in harness.condition("Failed")["message"]
    harness.wait(lambda: "Failed" in job_conditions(harness))
    job = harness.cluster.job(harness.namespace, "mug-preflight")
    assert "deletionTimestamp" not in job["metadata"]
    assert "FailedCreate" in harness.cluster.events(harness.namespace, "mug-preflight")
    assert harness.settles()


def job_conditions(harness: Harness) -> list[str]:
    """The types of the conditions of the preflight's Job."""
    job = harness.cluster.job(harness.namespace, "mug-preflight")
    return [each["type"] for each in job["status"].get("conditions", [])]


def test_a_new_job_says_which_webhook_is_down(harness: Harness, double: DoubleClient) -> None:
    double.fail(method="POST|PATCH", path="/(jobs|configmaps)", code=500, times=-1, message=WEBHOOK)
    harness.create()
    harness.wait(lambda: harness.condition("Accepted").get("status") == "False", SHOWN_SECONDS)
    condition = harness.condition("Accepted")
    assert condition["reason"] == "WebhookFailed"
    assert WEBHOOK in condition["message"]
    assert "Role" not in condition["message"]
    assert harness.status()["phase"] == "Pending"
    harness.wait(lambda: harness.events() == ["WebhookFailed"])
    double.heal()
    started = time.monotonic()
    harness.start_training()
    assert time.monotonic() - started < 45
    assert harness.condition("Accepted")["status"] == "True"


def test_a_policy_is_not_taken_for_a_missing_permission(
    harness: Harness, double: DoubleClient
) -> None:
    denied = (
        "jobs.batch \"mug-preflight\" is forbidden: ValidatingAdmissionPolicy 'owner' with binding"
        " 'owner' denied request: jobs need the label owner"
    )
    double.fail(method="POST", path="/jobs", code=403, times=-1, message=denied)
    harness.create()
    harness.wait(lambda: harness.condition("Accepted").get("status") == "False", SHOWN_SECONDS)
    message = harness.condition("Accepted")["message"]
    assert denied in message
    assert "Role" not in message


def test_the_preflight_runs_under_a_quota_on_limits(harness: Harness) -> None:
    quota(harness, **{"limits.cpu": "4", "limits.memory": "8Gi", "requests.cpu": "4"})
    harness.create()
    harness.running_pods("mug-preflight", 1)
    harness.pass_preflight()
    # The job sets no limits for its own pods.
    wait_shown(harness, "PodsReady", "failed quota: team: must specify limits.cpu for: trainer")
