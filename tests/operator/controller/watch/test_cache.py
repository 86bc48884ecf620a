"""The cache keeps the newest version of each object, and deleted pods until the next Job."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD, SERVICE, Kind
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.reconciler.codec import decode_job
from dreambooth_operator.controller.watch import cache as cache_module
from dreambooth_operator.controller.watch.cache import Cache
from tests.operator.controller.parts import job_body

KEY = Key("team", "mug")
OWNER = "uid-of-mug"


def _child(name: str, version: int, **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": f"uid-of-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-03-01T12:00:00Z",
            "labels": {"dreambooth.dev/job": "mug", "dreambooth.dev/attempt": "0"},
            "ownerReferences": [
                {"kind": "DreamBoothJob", "uid": OWNER, "controller": True, "name": "mug"}
            ],
            **meta,
        },
        "status": {},
    }


def _pod(name: str, version: int, job: str) -> dict[str, Any]:
    return _child(name, version, ownerReferences=[{"uid": f"uid-of-{job}", "controller": True}])


def _record(version: int, uid: str = OWNER, **status: Any) -> dict[str, Any]:
    body = job_body("team", "mug")
    body["metadata"] |= {
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-03-01T12:00:00Z",
        "managedFields": [{"manager": "kubectl"}] * 50,
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x" * 5000},
    }
    return body | {"status": status}


def _remove(cache: Cache, kind: Kind, body: dict[str, Any]) -> Key | None:
    meta = body["metadata"]
    return cache.remove(kind, meta["namespace"], meta["name"], meta["uid"])


def test_update_returns_the_job_that_the_object_belongs_to() -> None:
    cache = Cache()
    assert cache.update(DREAMBOOTH_JOB, _record(5)) == KEY
    assert cache.update(JOB, _child("mug-0", 6)) == KEY
    assert cache.update(POD, _pod("mug-0-0-x", 7, "mug-0")) == KEY
    assert cache.update(SERVICE, _child("mug-ranks", 8)) == KEY
    assert [job.name for job in cache.jobs(KEY, OWNER)] == ["mug-0"]
    assert [pod.name for pod in cache.pods(KEY, OWNER)] == ["mug-0-0-x"]
    assert cache.owned_uid(KEY, OWNER, "Service", "mug-ranks")


def test_annotations_for_the_children_are_kept_and_those_of_kubectl_are_not() -> None:
    body = _record(5)
    body["metadata"]["annotations"]["example.com/cost-center"] = "42"
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, body)
    (record,) = cache.dreambooth_jobs()
    assert decode_job(record).metadata.annotations == {"example.com/cost-center": "42"}


@pytest.mark.parametrize("version", [9, 10])
def test_older_and_equal_versions_are_ignored(version: int) -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(10, phase="Running"))
    assert cache.update(DREAMBOOTH_JOB, _record(version, phase="Starting")) is None
    assert [record.summary.phase for record in cache.dreambooth_jobs()] == ["Running"]


def test_versions_are_compared_as_numbers() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(9))
    assert cache.update(DREAMBOOTH_JOB, _record(10)) == KEY


def test_snapshot_of_a_dreambooth_job_has_all_that_is_needed() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5, phase="Running"))
    record = cache.dreambooth_job(KEY)
    assert record is not None
    assert len(record.body) < 1000
    body = json.loads(record.body)
    assert body["spec"] == job_body("team", "mug")["spec"]
    assert body["status"] == {"phase": "Running"}


def test_late_answer_does_not_restore_a_deleted_object() -> None:
    cache = Cache()
    cache.update(JOB, _child("mug-0", 6))
    assert _remove(cache, JOB, _child("mug-0", 8)) == KEY
    assert cache.update(JOB, _child("mug-0", 7)) is None
    assert cache.jobs(KEY, OWNER) == []


def test_recreated_job_survives_the_deletion_of_its_predecessor() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5))
    cache.update(DREAMBOOTH_JOB, _record(9, uid="uid-of-another"))
    assert _remove(cache, DREAMBOOTH_JOB, _record(5)) is None
    record = cache.dreambooth_job(KEY)
    assert record is not None
    assert record.uid == "uid-of-another"


def test_child_with_another_owner_is_not_owned() -> None:
    cache = Cache()
    cache.update(SERVICE, _child("mug-ranks", 6, ownerReferences=[]))
    cache.update(JOB, _child("mug-0", 6, ownerReferences=[{"uid": "other", "controller": True}]))
    assert not cache.owned_uid(KEY, OWNER, "Service", "mug-ranks")
    assert not cache.owned_uid(KEY, OWNER, "Job", "mug-0")
    assert cache.jobs(KEY, OWNER) == []


def test_objects_without_labels_are_ignored() -> None:
    cache = Cache()
    assert cache.update(POD, _child("other", 6, labels={})) is None
    assert cache.objects(POD) == {}


def test_deleted_pod_is_kept_until_the_next_job() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5))
    cache.update(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    cache.update(POD, pod)
    assert _remove(cache, POD, pod) == KEY
    _remove(cache, JOB, _child("mug-0", 8))
    assert [(pod.name, pod.gone) for pod in cache.pods(KEY, OWNER)] == [("mug-0-0-x", True)]
    assert ("team", "mug-0-0-x") not in cache.objects(POD)
    cache.update(JOB, _child("mug-1", 9))
    assert cache.pods(KEY, OWNER) == []


def test_the_final_deletion_does_not_move_when_a_pod_was_asked_to_stop() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5))
    cache.update(JOB, _child("mug-0", 6))
    asked, final = _pod("mug-0-0-x", 7, "mug-0"), _pod("mug-0-0-x", 8, "mug-0")
    asked["metadata"] |= {
        "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30,
    }  # fmt: skip
    final["metadata"] |= {
        "deletionTimestamp": "2026-01-01T00:00:05Z", "deletionGracePeriodSeconds": 0,
    }  # fmt: skip
    for body in (asked, final):
        cache.update(POD, body)
    (pod,) = cache.pods(KEY, OWNER)
    assert pod.deletion_requested == datetime(2026, 1, 1, tzinfo=UTC)


def test_pod_that_outlives_its_job_is_kept_as_long() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5))
    cache.update(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    cache.update(POD, pod)
    _remove(cache, JOB, _child("mug-0", 8))
    _remove(cache, POD, pod)
    assert [pod.gone for pod in cache.pods(KEY, OWNER)] == [True]
    cache.update(JOB, _child("mug-1", 9))
    assert cache.pods(KEY, OWNER) == []


def test_nothing_is_kept_of_a_deleted_dreambooth_job() -> None:
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(5))
    cache.update(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    cache.update(POD, pod)
    _remove(cache, DREAMBOOTH_JOB, _record(5))
    _remove(cache, POD, pod)
    _remove(cache, JOB, _child("mug-0", 8))
    assert cache.pods(KEY, OWNER) == []


def test_recreated_child_replaces_the_old_one() -> None:
    cache = Cache()
    cache.update(JOB, _child("mug-0", 6))
    cache.update(JOB, _child("mug-0", 9, uid="uid-of-the-next"))
    assert [job.uid for job in cache.jobs(KEY, OWNER)] == ["uid-of-the-next"]


def test_pods_beyond_the_limit_of_a_namespace_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_module, "MAX_PODS", 4)
    passed_over = []
    cache = Cache(on_unreadable=lambda kind, body, error: passed_over.append(str(error)))
    pods = [_pod(f"pod-{number}", number + 1, "mug-0") for number in range(6)]
    assert [cache.update(POD, pod) for pod in pods] == [KEY] * 4 + [None] * 2
    assert passed_over == ["the namespace has more than 4 pods of jobs"] * 2
    elsewhere = _pod("other", 7, "mug-0")
    elsewhere["metadata"]["namespace"] = "others"
    assert cache.update(POD, elsewhere)
    assert cache.update(POD, _pod("pod-0", 8, "mug-0")) == KEY  # one that is known changes
    _remove(cache, POD, pods[0])
    assert cache.update(POD, pods[5]) == KEY


def test_deleted_pods_of_a_job_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_PODS", 4)
    cache = Cache()
    cache.update(DREAMBOOTH_JOB, _record(1))
    cache.update(JOB, _child("mug-0", 2))
    for number in range(10):  # made by a tenant, with the Job's uid as that of their controller
        pod = _pod(f"pod-{number}", number + 3, "mug-0")
        assert cache.update(POD, pod) == KEY
        _remove(cache, POD, pod)
    assert len(cache.pods(KEY, OWNER)) == 2
    _remove(cache, JOB, _child("mug-0", 2))
    cache.update(JOB, _child("mug-1", 20))
    assert cache.pods(KEY, OWNER) == []
