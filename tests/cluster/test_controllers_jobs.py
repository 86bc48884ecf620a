"""What becomes of Jobs: the same with our controllers as with Kubernetes' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.fake_cluster import JOBS, PODS, FakeCluster

Object = dict[str, Any]

TRACKING = "batch.kubernetes.io/job-tracking"


def attempt(**spec: Any) -> Object:
    """A Job as the operator makes one for an attempt on two nodes."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "dog-0"},
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {"action": "FailJob", "onExitCodes": exit_codes(64, 65)},
                    {"action": "Ignore", "onExitCodes": exit_codes(143)},
                ]
            },
            "template": template(),
            **spec,
        },
    }


def preflight(**spec: Any) -> Object:
    """A plain Job, which is tried again."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "preflight"},
        "spec": {"backoffLimit": 2, "template": template(), **spec},
    }


def template() -> Object:
    container = {"name": "trainer", "image": "trainer"}
    return {
        "metadata": {"labels": {"app": "dog"}, "annotations": {"note": "kept"}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def exit_codes(*codes: int) -> Object:
    return {"containerName": "trainer", "operator": "In", "values": list(codes)}


def conditions(job: Object) -> list[tuple[str, str, str, str]]:
    """Type, status, reason and message of a Job's conditions, in their order."""
    conditions = job["status"].get("conditions", [])
    return [(c["type"], c["status"], c["reason"], c["message"]) for c in conditions]


def counts(job: Object) -> dict[str, Any]:
    """All of a Job's status that is no time and no condition."""
    left_out = ("startTime", "completionTime", "conditions")
    return {key: value for key, value in job["status"].items() if key not in left_out}


def uids(objects: list[Object]) -> set[str]:
    return {object_["metadata"]["uid"] for object_ in objects}


class Run:
    """A Job in a namespace, and its pods."""

    def __init__(self, cluster: FakeCluster, namespace: str, job: Object) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.name = job["metadata"]["name"]
        self.created = cluster.create(JOBS.format(namespace), job)

    @property
    def path(self) -> str:
        return f"{JOBS.format(self.namespace)}/{self.name}"

    @property
    def job(self) -> Object:
        return self.cluster.job(self.namespace, self.name)

    @property
    def pods(self) -> list[Object]:
        return self.cluster.pods(self.namespace, self.name)

    def wait_pods(self, count: int) -> list[Object]:
        """As many pods, all of them running, and known to the Job to be."""

        def look() -> list[Object] | None:
            pods, status = self.pods, self.job["status"]
            running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
            all_run = len(running) == len(pods) == count
            return running if all_run and status.get("ready") == count else None

        pods: list[Object] = self.cluster.wait(look)
        return pods

    def wait_condition(self, kind: str) -> Object:
        """The Job once it has a condition that is true."""

        def look() -> Object | None:
            job = self.job
            return job if (kind, "True") in [c[:2] for c in conditions(job)] else None

        job: Object = self.cluster.wait(look)
        return job

    def wait_gone(self) -> None:
        self.cluster.wait(lambda: self.cluster.find(self.path) is None)


@pytest.fixture
def start(cluster: FakeCluster, namespace: str) -> Callable[[Object], Run]:
    """Creates a Job in the test's namespace."""
    return lambda job: Run(cluster, namespace, job)


Start = Callable[[Object], Run]


def test_the_pods_of_an_indexed_job(start: Start) -> None:
    run = start(attempt())
    uid = run.created["metadata"]["uid"]
    pods = run.wait_pods(2)
    for index, pod in enumerate(pods):
        meta, spec = pod["metadata"], pod["spec"]
        prefix, letters = meta["name"][:-5], meta["name"][-5:]
        assert prefix == f"dog-0-{index}-"
        assert letters.isalnum()
        assert meta["generateName"] == prefix
        assert meta["labels"] == {
            "app": "dog",
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-completion-index": str(index),
            "batch.kubernetes.io/job-name": "dog-0",
            "controller-uid": uid,
            "job-name": "dog-0",
        }
        assert meta["annotations"] == {
            "batch.kubernetes.io/job-completion-index": str(index),
            "note": "kept",
        }
        assert meta["finalizers"] == [TRACKING]
        assert meta["ownerReferences"] == [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": "dog-0",
                "uid": uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        assert spec["hostname"] == f"dog-0-{index}"
        path = "metadata.labels['batch.kubernetes.io/job-completion-index']"
        (variable,) = spec["containers"][0]["env"]
        assert variable["name"] == "JOB_COMPLETION_INDEX"
        assert variable["valueFrom"]["fieldRef"]["fieldPath"] == path
    assert {pod["spec"]["nodeName"] for pod in pods} == {"node-a", "node-b"}
    assert conditions(run.job) == []
    assert counts(run.job) == {
        "active": 2,
        "ready": 2,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }


def test_the_pod_of_a_plain_job(start: Start) -> None:
    (pod,) = start(preflight()).wait_pods(1)
    assert pod["metadata"]["name"][:-5] == "preflight-"
    assert pod["metadata"]["annotations"] == {"note": "kept"}
    assert "batch.kubernetes.io/job-completion-index" not in pod["metadata"]["labels"]
    assert "hostname" not in pod["spec"]
    assert "env" not in pod["spec"]["containers"][0]


def test_a_long_name_leaves_room_for_the_letters(start: Start) -> None:
    job = attempt()
    job["metadata"]["name"] = "d" * 61
    pods = start(job).wait_pods(2)
    assert [pod["metadata"]["name"][:-5] for pod in pods] == ["d" * 55 + f"-{i}-" for i in (0, 1)]


def test_all_ranks_succeed(start: Start) -> None:
    run = start(attempt())
    first, second = run.wait_pods(2)
    run.cluster.end(first, 0)
    run.cluster.wait(lambda: run.job["status"].get("completedIndexes") == "0")
    assert counts(run.job) | {"ready": 1} == {
        "active": 1,
        "ready": 1,
        "succeeded": 1,
        "terminating": 0,
        "completedIndexes": "0",
        "uncountedTerminatedPods": {},
    }
    run.cluster.end(second, 0)
    job = run.wait_condition("Complete")
    reached = "Reached expected number of succeeded pods"
    assert conditions(job) == [
        ("SuccessCriteriaMet", "True", "CompletionsReached", reached),
        ("Complete", "True", "CompletionsReached", reached),
    ]
    assert counts(job) == {
        "ready": 0,
        "succeeded": 2,
        "terminating": 0,
        "completedIndexes": "0,1",
        "uncountedTerminatedPods": {},
    }
    complete = job["status"]["conditions"][-1]
    assert job["status"]["completionTime"] == complete["lastTransitionTime"]
    assert [pod["status"]["phase"] for pod in run.pods] == ["Succeeded", "Succeeded"]
    assert all("finalizers" not in pod["metadata"] for pod in run.pods)
    events = run.cluster.wait(
        lambda: "Completed" in (reasons := run.cluster.events(run.namespace, run.name)) and reasons
    )
    assert events == {"SuccessfulCreate", "Completed"}


def test_one_rank_fails(start: Start) -> None:
    run = start(attempt())
    first, _ = run.wait_pods(2)
    run.cluster.end(first, 1)
    job = run.wait_condition("Failed")
    message = "Job has reached the specified backoff limit"
    assert conditions(job) == [
        ("FailureTarget", "True", "BackoffLimitExceeded", message),
        ("Failed", "True", "BackoffLimitExceeded", message),
    ]
    assert counts(job) == {
        "failed": 2,
        "ready": 0,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }
    assert [pod["metadata"]["name"] for pod in run.pods] == [first["metadata"]["name"]]
    assert "completionTime" not in job["status"]


def test_a_listed_exit_code_fails_the_job_at_once(start: Start) -> None:
    run = start(attempt(backoffLimit=6))
    _, second = run.wait_pods(2)
    name = second["metadata"]["name"]
    run.cluster.end(second, 64)
    job = run.wait_condition("Failed")
    message = (
        f"Container trainer for pod {run.namespace}/{name} failed with exit code 64 "
        "matching FailJob rule at index 1"
    )
    assert conditions(job) == [
        ("FailureTarget", "True", "PodFailurePolicy", message),
        ("Failed", "True", "PodFailurePolicy", message),
    ]
    assert job["status"]["failed"] == 2
    assert [pod["metadata"]["name"] for pod in run.pods] == [name]


def test_an_evicted_pod_fails_the_job_and_no_pod_is_left(start: Start) -> None:
    run = start(attempt())
    first, _ = run.wait_pods(2)
    name = first["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": run.namespace},
    }
    run.cluster.create(f"{PODS.format(run.namespace)}/{name}/eviction", eviction)
    job = run.wait_condition("Failed")
    place = f"{run.namespace}/{name}"
    message = f"Pod {place} has condition DisruptionTarget matching FailJob rule at index 0"
    assert conditions(job) == [
        ("FailureTarget", "True", "PodFailurePolicy", message),
        ("Failed", "True", "PodFailurePolicy", message),
    ]
    assert job["status"]["failed"] == 2
    run.cluster.wait(lambda: not run.pods)


def test_a_pod_deleted_by_hand_is_replaced(start: Start) -> None:
    run = start(attempt())
    first, second = run.wait_pods(2)
    run.cluster.delete(f"{PODS.format(run.namespace)}/{first['metadata']['name']}")
    run.cluster.wait(lambda: run.pods[0]["status"]["phase"] == "Failed")
    run.cluster.sleep(2)  # the pause after a failure is 10 seconds
    assert [pod["status"]["phase"] for pod in run.pods] == ["Failed", "Running"]
    assert "failed" not in run.job["status"]
    run.cluster.wait(lambda: first["metadata"]["uid"] not in uids(run.pods))
    pods = run.wait_pods(2)
    assert pods[0]["metadata"]["name"] != first["metadata"]["name"]
    assert pods[0]["metadata"]["name"].startswith("dog-0-0-")
    assert pods[1]["metadata"]["uid"] == second["metadata"]["uid"]
    assert conditions(run.job) == []
    assert counts(run.job) == {
        "active": 2,
        "ready": 2,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }


def test_suspending_deletes_the_pods_and_resuming_starts_new_ones(start: Start) -> None:
    run = start(attempt())
    before = run.wait_pods(2)
    run.cluster.patch(run.path, {"spec": {"suspend": True}})
    run.wait_condition("Suspended")
    run.cluster.wait(lambda: not run.pods and run.job["status"]["terminating"] == 0)
    job = run.job
    assert conditions(job) == [("Suspended", "True", "JobSuspended", "Job suspended")]
    assert counts(job) == {"ready": 0, "terminating": 0, "uncountedTerminatedPods": {}}
    assert "startTime" not in job["status"]
    run.cluster.patch(run.path, {"spec": {"suspend": False}})
    after = run.wait_pods(2)
    assert {pod["metadata"]["uid"] for pod in before}.isdisjoint(
        p["metadata"]["uid"] for p in after
    )
    assert conditions(run.job) == [("Suspended", "False", "JobResumed", "Job resumed")]
    assert "startTime" in run.job["status"]
    events = run.cluster.wait(
        lambda: "Resumed" in (reasons := run.cluster.events(run.namespace, run.name)) and reasons
    )
    assert events == {"SuccessfulCreate", "SuccessfulDelete", "Suspended", "Resumed"}


def test_a_job_that_is_born_suspended_has_no_pods(start: Start) -> None:
    run = start(attempt(suspend=True))
    run.wait_condition("Suspended")
    assert run.pods == []
    assert "startTime" not in run.job["status"]


def test_a_suspended_job_whose_ranks_refuse_to_save_does_not_fail(start: Start) -> None:
    run = start(attempt())
    first, _ = run.wait_pods(2)
    run.cluster.patch(run.path, {"spec": {"suspend": True}})
    run.wait_condition("Suspended")
    run.cluster.end(first, 1)
    run.cluster.sleep(1.5)
    assert "failed" not in run.job["status"]


def test_a_deadline_fails_the_job(start: Start) -> None:
    run = start(attempt(activeDeadlineSeconds=2))
    run.wait_pods(2)
    job = run.wait_condition("Failed")
    message = "Job was active longer than specified deadline"
    assert conditions(job) == [
        ("FailureTarget", "True", "DeadlineExceeded", message),
        ("Failed", "True", "DeadlineExceeded", message),
    ]
    assert job["status"].get("failed") == 2
    run.cluster.wait(lambda: not run.pods)


def test_a_finished_job_is_deleted_after_its_time_to_live(start: Start) -> None:
    run = start(attempt(ttlSecondsAfterFinished=1))
    for pod in run.wait_pods(2):
        run.cluster.end(pod, 0)
    run.wait_condition("Complete")
    run.wait_gone()
    run.cluster.wait(lambda: not run.pods)


def test_a_plain_job_tries_again_after_a_pause(start: Start) -> None:
    run = start(preflight())
    (first,) = run.wait_pods(1)
    run.cluster.end(first, 1)
    run.cluster.wait(lambda: run.job["status"].get("failed") == 1)
    assert len(run.pods) == 1
    assert conditions(run.job) == []
    run.cluster.wait(lambda: len(run.pods) == 2)
    (second,) = [pod for pod in run.pods if pod["metadata"]["uid"] != first["metadata"]["uid"]]
    run.cluster.wait(lambda: run.job["status"].get("ready") == 1)
    run.cluster.end(second, 0)
    job = run.wait_condition("Complete")
    assert counts(job) == {
        "failed": 1,
        "ready": 0,
        "succeeded": 1,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }


def test_a_terminating_pod_holds_back_the_end(cluster: FakeCluster, start: Start) -> None:
    stuck = attempt()
    stuck["spec"]["template"]["metadata"]["finalizers"] = ["example.com/stuck"]
    run = start(stuck)
    first, second = run.wait_pods(2)
    node = cluster.node_of(second)
    cluster.lose(node)
    run.cluster.end(first, 1)
    job = run.wait_condition("FailureTarget")
    run.cluster.sleep(1.5)
    job = run.job
    assert [c[0] for c in conditions(job)] == ["FailureTarget"]
    assert job["status"]["terminating"] == 1
    cluster.recover(node)
    run.wait_condition("Failed")
    for pod in run.pods:
        path = f"{PODS.format(run.namespace)}/{pod['metadata']['name']}"
        cluster.patch(path, {"metadata": {"finalizers": None}})


def test_a_job_that_is_deleted_takes_its_pods_along(start: Start) -> None:
    run = start(attempt())
    run.wait_pods(2)
    run.cluster.delete(run.path, propagationPolicy="Background")
    run.wait_gone()
    run.cluster.wait(lambda: not run.pods)


def test_a_job_deleted_in_the_foreground_goes_after_its_pods(start: Start) -> None:
    run = start(attempt())
    run.wait_pods(2)
    run.cluster.delete(run.path, propagationPolicy="Foreground")
    run.wait_gone()
    assert run.pods == []


def test_orphaned_pods_stay(start: Start) -> None:
    run = start(attempt())
    run.wait_pods(2)
    run.cluster.delete(run.path, propagationPolicy="Orphan")
    run.wait_gone()
    run.cluster.sleep(1)
    pods = run.pods
    assert len(pods) == 2
    assert all("ownerReferences" not in pod["metadata"] for pod in pods)
    assert all("deletionTimestamp" not in pod["metadata"] for pod in pods)
