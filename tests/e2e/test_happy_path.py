"""A job from `kubectl apply` to the exported model, and what it leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby

from tests.cluster.client import Object
from tests.cluster.kubectl import eventually
from tests.e2e.cluster import CHILDREN, JOB_LABEL, condition
from tests.e2e.finished import Finished
from tests.e2e.operator_process import Operator

STAGES = ["Preparing", "GeneratingPrior", "Training", "Evaluating", "Exporting"]

COLUMNS = ["NAME", "PHASE", "STAGE", "STEP", "TOTAL", "LOSS", "ETA", "FAILURES", "AGE"]


def children(finished: Finished) -> list[Object]:
    """What the operator made for a job, as the API server keeps it."""
    chosen = f"--selector={JOB_LABEL}={finished.name}"
    text = finished.cluster.kubectl(
        "get", CHILDREN, chosen, "--output=json", "--show-managed-fields"
    )
    items: list[Object] = json.loads(text)["items"]
    return items


def test_phases_and_stages_come_in_order(uninterrupted: Finished) -> None:
    phases = [phase for phase, _ in groupby(phase for phase, _ in uninterrupted.seen if phase)]
    assert phases == ["Preflight", "Starting", "Running", "Succeeded"]
    stages = [stage for stage, _ in groupby(stage for _, stage in uninterrupted.seen if stage)]
    assert "Training" in stages
    assert stages == sorted(stages, key=STAGES.index)


def test_a_list_of_jobs_tells_how_they_do(uninterrupted: Finished) -> None:
    header, row = uninterrupted.cluster.kubectl("get", "dbj").splitlines()
    assert header.split() == COLUMNS
    assert row.split()[:-1] == [
        "mug",
        "Succeeded",
        "40",
        "40",
        "0",
    ]  # neither a stage nor a loss nor an ETA


def test_the_description_tells_what_happened(uninterrupted: Finished) -> None:
    text = uninterrupted.cluster.kubectl("describe", "dbj", "mug")
    assert "the model was trained and exported" in text
    events = text.rpartition("\nEvents:")[2]
    assert f"The model is in {uninterrupted.run}/export" in events
    assert "dreambooth-operator" in events


def test_each_event_is_told_once(uninterrupted: Finished) -> None:
    reasons = Counter(reason for reason, _ in uninterrupted.cluster.events("mug"))
    expected = ["PreflightPassed", "AttemptStarted", "Running", "Succeeded"]
    assert reasons == Counter(expected)


def test_the_status_is_complete(uninterrupted: Finished) -> None:
    status = uninterrupted.status
    assert condition(uninterrupted.job, "Accepted")["status"] == "True"
    assert condition(uninterrupted.job, "PreflightPassed")["status"] == "True"
    assert condition(uninterrupted.job, "Complete")["status"] == "True"
    assert not condition(uninterrupted.job, "Failed")
    assert status["observedGeneration"] == uninterrupted.job["metadata"]["generation"]
    assert not any(status["counters"].values())
    (attempt,) = status["attempts"]
    assert attempt["outcome"] == "Succeeded"
    assert attempt["started"] <= attempt["running"] <= attempt["ended"] <= status["completionTime"]


def test_the_status_is_true(uninterrupted: Finished) -> None:
    """What it names is in storage, and says the same."""
    status, storage = uninterrupted.status, uninterrupted.cluster.storage
    progress = status["progress"]
    assert (progress["step"], progress["totalSteps"]) == (40, 40)
    assert float(progress["imagesPerSecond"]) > 0
    last = status["lastCheckpoint"]
    assert last["step"] == storage.document(last["uri"], "manifest.json")["step"] == 40
    artifacts = status["artifacts"]
    assert artifacts["output"] == uninterrupted.run
    written = {stored.uri for stored in storage.below(uninterrupted.run)}
    assert f"{artifacts['export']}/model_index.json" in written
    assert artifacts["samples"] in written
    assert artifacts["report"] in written
    assert storage.weights(uninterrupted.run)


def test_children_belong_to_the_job(uninterrupted: Finished) -> None:
    meta = uninterrupted.job["metadata"]
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in children(uninterrupted)}
    assert set(by_name) == {
        ("Job", "mug-preflight"),
        ("Job", "mug-0"),
        ("Service", "mug-ranks"),
        ("ConfigMap", "mug-config"),
    }
    for child in by_name.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("DreamBoothJob", "mug")
        assert owner["uid"] == meta["uid"]
        assert owner["controller"] is True
        assert "blockOwnerDeletion" not in owner  # strict clusters want finalizer rights for it
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "dreambooth-operator"
    assert by_name["Job", "mug-0"]["metadata"]["labels"]["dreambooth.dev/attempt"] == "0"


def test_nothing_holds_up_a_deletion(uninterrupted: Finished) -> None:
    held = [each["kind"] for each in children(uninterrupted) if "finalizers" in each["metadata"]]
    assert held == []
    assert "finalizers" not in uninterrupted.job["metadata"]


def test_one_manager_applies(uninterrupted: Finished) -> None:
    for child in children(uninterrupted):
        managers = {
            (field["manager"], field["operation"])
            for field in child["metadata"]["managedFields"]
            if "subresource" not in field
        }
        # Created first, and applied after that only where something changes.
        assert {manager for manager, _ in managers} == {"dreambooth-operator"}, child["metadata"]


def test_pods_may_do_little(uninterrupted: Finished) -> None:
    """Their namespace demands the `restricted` standard, which real API servers enforce."""
    pods = uninterrupted.cluster.pods("mug")
    assert len(pods) == 3  # two that trained, one preflight
    for spec in (pod["spec"] for pod in pods):
        (container,) = spec["containers"]
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert "kube-api-access" not in json.dumps(spec.get("volumes", []))


def test_the_operator_has_metrics(uninterrupted: Finished, operator: Operator) -> None:
    assert eventually(lambda: operator.metric("jobs", phase="Succeeded") >= 1)
    # Its predecessor, which watched the job, may just have been killed by another test.
    assert eventually(
        lambda: operator.metric("api_requests_total", resource="pods", verb="watch") >= 1
    )
    assert operator.metric("watch_age_seconds", resource="pods") < 120
    series = [line for line in operator.metrics().splitlines() if not line.startswith("#")]
    of_jobs = [line for line in series if uninterrupted.cluster.namespace in line]
    assert all(line.startswith("dreambooth_job_") for line in of_jobs)
    assert len(of_jobs) <= 16  # those of the one job; others are bounded by other means


def test_looking_again_writes_nothing(uninterrupted: Finished, operator: Operator) -> None:
    cluster, kubectl = uninterrupted.cluster, uninterrupted.cluster.kubectl
    kubectl("annotate", "dbj", "mug", "looked=again", "--overwrite")
    before = cluster.versions()
    looks = operator.metric("reconcile_seconds_count")
    kubectl("label", "job", "mug-0", "looked=again")
    assert eventually(lambda: operator.metric("reconcile_seconds_count") > looks)
    operator.restart()
    assert eventually(lambda: operator.metric("jobs", phase="Succeeded") >= 1)
    after = cluster.versions()
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"Job/mug-0"}  # by the label alone
