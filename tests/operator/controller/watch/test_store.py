"""What is known: the newest of what was heard, small, and a pod's end until it was judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dreambooth_operator.controller.kube.kinds import DREAMBOOTH_JOB, JOB, POD, SERVICE, Kind
from dreambooth_operator.controller.kube.snapshots import Key
from dreambooth_operator.controller.watch.cache import Store
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


def _remove(store: Store, kind: Kind, body: dict[str, Any]) -> Key | None:
    meta = body["metadata"]
    return store.remove(kind, meta["namespace"], meta["name"], meta["uid"])


def test_news_tell_which_job_they_concern() -> None:
    store = Store()
    assert store.put(DREAMBOOTH_JOB, _record(5)) == KEY
    assert store.put(JOB, _child("mug-0", 6)) == KEY
    assert store.put(POD, _pod("mug-0-0-x", 7, "mug-0")) == KEY
    assert store.put(SERVICE, _child("mug-ranks", 8)) == KEY
    assert [job.name for job in store.jobs(KEY, OWNER)] == ["mug-0"]
    assert [pod.name for pod in store.pods(KEY, OWNER)] == ["mug-0-0-x"]
    assert store.owns(KEY, OWNER, "Service", "mug-ranks")


@pytest.mark.parametrize("version", [9, 10])
def test_what_is_not_newer_is_no_news(version: int) -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(10, phase="Running"))
    assert store.put(DREAMBOOTH_JOB, _record(version, phase="Starting")) is None
    assert [record.facts.phase for record in store.records()] == ["Running"]


def test_versions_are_numbers() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(9))
    assert store.put(DREAMBOOTH_JOB, _record(10)) == KEY


def test_record_is_small_and_whole() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(5, phase="Running"))
    record = store.record(KEY)
    assert record is not None
    assert len(record.body) < 1000
    body = json.loads(record.body)
    assert body["spec"] == job_body("team", "mug")["spec"]
    assert body["status"] == {"phase": "Running"}


def test_late_answer_does_not_bring_back_what_is_gone() -> None:
    store = Store()
    store.put(JOB, _child("mug-0", 6))
    assert _remove(store, JOB, _child("mug-0", 8)) == KEY
    assert store.put(JOB, _child("mug-0", 7)) is None
    assert store.jobs(KEY, OWNER) == []


def test_job_made_anew_under_the_same_name_stays() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(5))
    store.put(DREAMBOOTH_JOB, _record(9, uid="uid-of-another"))
    assert _remove(store, DREAMBOOTH_JOB, _record(5)) is None
    record = store.record(KEY)
    assert record is not None
    assert record.uid == "uid-of-another"


def test_child_of_somebody_else_is_not_owned() -> None:
    store = Store()
    store.put(SERVICE, _child("mug-ranks", 6, ownerReferences=[]))
    store.put(JOB, _child("mug-0", 6, ownerReferences=[{"uid": "other", "controller": True}]))
    assert not store.owns(KEY, OWNER, "Service", "mug-ranks")
    assert not store.owns(KEY, OWNER, "Job", "mug-0")
    assert store.jobs(KEY, OWNER) == []


def test_unlabelled_objects_are_not_kept() -> None:
    store = Store()
    assert store.put(POD, _child("other", 6, labels={})) is None
    assert store.known(POD) == {}


def test_pod_is_remembered_until_the_next_job_comes() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(5))
    store.put(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    store.put(POD, pod)
    assert _remove(store, POD, pod) == KEY
    _remove(store, JOB, _child("mug-0", 8))
    assert [(pod.name, pod.gone) for pod in store.pods(KEY, OWNER)] == [("mug-0-0-x", True)]
    assert ("team", "mug-0-0-x") not in store.known(POD)
    store.put(JOB, _child("mug-1", 9))
    assert store.pods(KEY, OWNER) == []


def test_pod_that_outlives_its_job_is_remembered_as_long() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(5))
    store.put(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    store.put(POD, pod)
    _remove(store, JOB, _child("mug-0", 8))
    _remove(store, POD, pod)
    assert [pod.gone for pod in store.pods(KEY, OWNER)] == [True]
    store.put(JOB, _child("mug-1", 9))
    assert store.pods(KEY, OWNER) == []


def test_nothing_is_remembered_of_a_job_that_was_deleted() -> None:
    store = Store()
    store.put(DREAMBOOTH_JOB, _record(5))
    store.put(JOB, _child("mug-0", 6))
    pod = _pod("mug-0-0-x", 7, "mug-0")
    store.put(POD, pod)
    _remove(store, DREAMBOOTH_JOB, _record(5))
    _remove(store, POD, pod)
    _remove(store, JOB, _child("mug-0", 8))
    assert store.pods(KEY, OWNER) == []


def test_child_that_was_replaced_unnoticed_takes_the_place() -> None:
    store = Store()
    store.put(JOB, _child("mug-0", 6))
    store.put(JOB, _child("mug-0", 9, uid="uid-of-the-next"))
    assert [job.uid for job in store.jobs(KEY, OWNER)] == ["uid-of-the-next"]
