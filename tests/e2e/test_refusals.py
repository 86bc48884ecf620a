"""Jobs that are refused at `kubectl apply`, and jobs that are refused by the preflight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.client import Object
from tests.cluster.kubectl import KubectlError, eventually
from tests.e2e.cluster import Cluster, condition
from tests.e2e.operator_process import Operator
from tests.e2e.storage import Storage

PREFLIGHT_ONLY = ["mug-preflight"]


def setting(path: str, value: Any) -> Callable[[Object], None]:
    """A change of one field of a spec."""
    *folders, last = path.split(".")

    def change(spec: Object) -> None:
        for name in folders:
            spec = spec.setdefault(name, {})
        spec[last] = value

    return change


REFUSED = {
    "a batch that the ranks cannot share": (
        setting("training.globalBatch", 3),
        ["spec.training.globalBatch", "must be a multiple of nodes x gpusPerNode"],
    ),
    "a field that does not exist": (
        setting("training.learningrate", 0.1),
        ['unknown field "spec.training.learningrate"'],
    ),
    "a folder that is no URI": (
        setting("output", "results"),
        ["spec.output", "s3://"],
    ),
    "too short a deadline": (
        setting("runtime.activeDeadlineSeconds", 5),
        ["spec.runtime.activeDeadlineSeconds", "greater than or equal to 60"],
    ),
    "a variable that is the operator's": (
        setting(
            "runtime.podOverrides.spec.containers",
            [{"name": "trainer", "env": [{"name": "MASTER_ADDR", "value": "10.0.0.1"}]}],
        ),
        ["spec.runtime.podOverrides.spec.containers[0].env[0].name", "remove the variable"],
    ),
    "a required field that is missing": (
        lambda spec: spec.pop("model"),
        ["spec.model: Required value"],
    ),
}


@pytest.mark.parametrize(("change", "messages"), REFUSED.values(), ids=REFUSED)
def test_a_bad_job_is_refused_at_once(
    cluster: Cluster, job: Object, change: Callable[[Object], None], messages: list[str]
) -> None:
    change(job["spec"])
    with pytest.raises(KubectlError) as refused:
        cluster.apply(job)
    for words in messages:
        assert words in str(refused.value)
    assert cluster.job("mug") is None


CHANGES: dict[str, Object] = {
    "spec.training": {"training": {"steps": 7}},
    "spec.subjects": {
        "subjects": [{"identifier": "zwx", "classNoun": "mug", "images": "s3://a/b"}]
    },
    "spec.model": {"model": {"source": "s3://a/b"}},
}


def test_what_is_trained_cannot_be_changed(cluster: Cluster, job: Object) -> None:
    job["spec"]["suspend"] = True  # so it does nothing meanwhile
    cluster.apply(job)
    for field, spec in CHANGES.items():
        with pytest.raises(KubectlError, match="create a new DreamBoothJob") as refused:
            cluster.patch("mug", spec)
        assert field in str(refused.value)
    kept = cluster.job("mug")
    assert kept is not None
    assert kept["metadata"]["generation"] == 1


def test_the_preflight_tells_everything_that_is_wrong(
    cluster: Cluster, operator: Operator, job: Object
) -> None:
    job["spec"]["model"]["source"] = "s3://dreambooth/models/none"
    job["spec"]["subjects"][0]["images"] = "s3://dreambooth/subjects/nothing"
    job["spec"]["output"] = "s3://no-such-bucket/results"
    cluster.apply(job)
    failed = cluster.wait_phase("mug", "Failed")
    preflight = condition(failed, "PreflightPassed")
    assert (preflight["status"], preflight["reason"]) == ("False", "Refused")
    for words in (
        "spec.output",
        "no-such-bucket",
        "spec.subjects[0].images",
        "s3://dreambooth/subjects/nothing",
        "spec.model.source",
        "s3://dreambooth/models/none",
    ):
        assert words in preflight["message"]
    assert condition(failed, "Failed")["message"] == preflight["message"]
    assert failed["status"].get("attempts", []) == []
    assert [each["metadata"]["name"] for each in cluster.jobs("mug")] == PREFLIGHT_ONLY
    assert Counter(reason for reason, _ in cluster.events("mug")) == {
        "PreflightFailed": 1,
        "Failed": 1,
    }


def test_missing_credentials_are_named(
    cluster: Cluster, operator: Operator, job: Object, storage: Storage
) -> None:
    job["spec"]["storage"] = storage.spec | {
        "credentials": {"secretRef": {"name": "no-such-secret"}}
    }
    cluster.apply(job)
    failed = condition(cluster.wait_phase("mug", "Failed"), "Failed")
    assert failed["reason"] == "NotStarted"
    assert 'secret "no-such-secret" not found' in failed["message"]
    assert eventually(lambda: cluster.pods("mug") == [])
    assert [each["metadata"]["name"] for each in cluster.jobs("mug")] == PREFLIGHT_ONLY
    assert storage.below(cluster.run("mug")) == []
