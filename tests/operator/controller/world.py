"""A simulated cluster for tests of `decide`: snapshots of Jobs and pods in memory.

It simulates as much of the API server, the Job controller and the nodes as decisions depend on.
Nothing happens by itself, so that a test can choose any order of events, however rare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.progress import Progress
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import AttemptStatus, Status
from dreambooth_operator.controller.decide.decide import decide
from dreambooth_operator.controller.decide.state.decision import (
    Action,
    Apply,
    Decision,
    DeleteDreamBoothJob,
    DeleteJob,
    Event,
    StopJob,
)
from dreambooth_operator.controller.decide.state.observed import Blocked, Observed, Policy, Reading
from dreambooth_operator.controller.kube.job_snapshots import COUNTERS_ANNOTATION, JobSnapshot
from dreambooth_operator.controller.kube.objects import Key
from dreambooth_operator.controller.kube.pod_snapshots import PodSnapshot
from dreambooth_operator.manifests import names

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
KEY = Key("team-a", "mug")
POLICY = Policy(default_image="trainer:1")


class CrashError(Exception):
    """The operator dies, or an API call fails, in the middle of carrying out a decision."""


def dreambooth_job(*, suspend: bool = False, **runtime: Any) -> DreamBoothJob:
    return DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": KEY.name, "namespace": KEY.namespace, "uid": "uid-of-the-job"},
            "spec": {
                "model": {"source": "s3://models/sd15"},
                "subjects": [{"images": "s3://data/mug", "identifier": "zwx", "classNoun": "mug"}],
                "output": "s3://results/runs",
                "runtime": {"nodes": 2, "gpusPerNode": 1} | runtime,
                "suspend": suspend,
            },
        }
    )


@dataclass
class World:
    """The cluster, and what the operator holds in memory."""

    job: DreamBoothJob = field(default_factory=dreambooth_job)
    policy: Policy = POLICY
    now: datetime = START
    deleted: bool = False
    generation: int = 1
    jobs: dict[str, JobSnapshot] = field(default_factory=dict)
    completions: dict[str, int] = field(default_factory=dict)
    pods: dict[str, PodSnapshot] = field(default_factory=dict)
    """By uid."""
    remembered: dict[str, PodSnapshot] = field(default_factory=dict)
    """Pods that are gone: a restart of the operator forgets them."""
    defaulted: tuple[str, ...] = ()
    reading: Reading | None = None
    blocked: Blocked | None = None
    refusal: str = ""
    """Why the API server refuses pods; while it does, `control_jobs` creates none."""
    damaged: frozenset[str] = frozenset()
    events: list[Event] = field(default_factory=list)
    writes: int = 0
    applied: list[dict[str, Any]] = field(default_factory=list)
    _created: int = 0

    # What the operator sees and does.

    def observe(self) -> Observed:
        pods = [*self.pods.values(), *self.remembered.values()]
        jobs = [job for job in self.jobs.values() if job.owner == self.job.metadata.uid]
        return Observed(
            job=self.job,
            generation=self.generation,
            created=START,
            defaulted=self.defaulted,
            deleting=self.deleted,
            attempts=tuple(
                sorted((j for j in jobs if j.attempt is not None), key=lambda j: j.attempt or 0)
            ),
            preflight=next((job for job in jobs if job.component == names.PREFLIGHT), None),
            pods=tuple(pods),
            reading=self.reading,
            blocked=self.blocked,
            refusal=self.refusal,
            damaged=self.damaged,
        )

    def decide(self) -> Decision:
        return decide(self.observe(), self.now, self.policy)

    def reconcile(self, crash_after: int | None = None) -> Decision:
        """Decide once and carry it out; crash after so many requests to the API server.

        As with a worker, status and events follow in the next round if there were actions.
        """
        decision = self.decide()
        left = crash_after
        for action in decision.actions:
            left = self._call(left, lambda action=action: self.execute(action))  # type: ignore[misc]
        if decision.status is not None and not decision.actions:
            self._call(left, lambda: self.write(decision.status))
            self.events += decision.events
        return decision

    def settle(self, limit: int = 20) -> None:
        """Reconcile until there is nothing to do."""
        for _ in range(limit):
            decision = self.reconcile()
            if decision.status is None and not decision.actions:
                return
        raise AssertionError("reconciling does not settle")

    def _call(self, left: int | None, act: Callable[[], None]) -> int | None:
        if left == 0:
            raise CrashError
        act()
        self.writes += 1
        return None if left is None else left - 1

    def execute(self, action: Action) -> None:
        if isinstance(action, Apply):
            self.applied.append(action.manifest)
            if action.manifest["kind"] == "Job":
                self._make_job(action.manifest)
        elif isinstance(action, DeleteJob):
            self.delete_job(action.name, background=action.background)
        elif isinstance(action, StopJob):
            self.jobs[action.name] = replace(self.jobs[action.name], stop_reason=action.reason)
        elif isinstance(action, DeleteDreamBoothJob):
            self.deleted = True

    def write(self, status: Status | None) -> None:
        self.job = self.job.model_copy(update={"status": status})

    # What the user does.

    def change(self, *, suspend: bool | None = None, **runtime: Any) -> None:
        spec = self.job.spec
        update = {"runtime": spec.runtime.model_copy(update=runtime)}
        if suspend is not None:
            update["suspend"] = suspend
        spec = spec.model_copy(update=update)
        self.job = self.job.model_copy(update={"spec": spec})
        self.generation += 1

    def restart_operator(self) -> None:
        self.remembered.clear()
        self.reading = None

    # What the cluster does.

    def tick(self, seconds: float = 1) -> None:
        self.now += timedelta(seconds=seconds)

    def _make_job(self, manifest: dict[str, Any]) -> None:
        meta = manifest["metadata"]
        if meta["name"] in self.jobs or self.deleted:
            return
        attempt = meta["labels"].get(names.ATTEMPT_LABEL)
        suspended = manifest["spec"].get("suspend", False)
        self._created += 1
        self.jobs[meta["name"]] = JobSnapshot(
            key=KEY,
            name=meta["name"],
            uid=f"uid-{self._created}",
            version=self._created,
            owner=meta["ownerReferences"][0]["uid"],
            component=meta["labels"][names.COMPONENT_LABEL],
            attempt=None if attempt is None else int(attempt),
            created=self.now,
            completions=manifest["spec"].get("completions"),
            suspended=suspended,
            started=None if suspended else self.now,
            queue=meta["labels"].get(names.QUEUE_LABEL, ""),
            counters=meta.get("annotations", {}).get(COUNTERS_ANNOTATION, ""),
        )
        self.completions[meta["name"]] = manifest["spec"].get("completions", 1)

    def control_jobs(self) -> None:
        """One round of the Job controller and of the garbage collector."""
        jobs = {job.uid for job in self.jobs.values()}
        for pod in list(self.pods.values()):
            if pod.job_uid not in jobs and pod.ended:
                self._forget(pod)
        for name, job in list(self.jobs.items()):
            pods = [pod for pod in self.pods.values() if pod.job_uid == job.uid]
            if self.deleted and not job.deleting:
                self.delete_job(name)
            elif job.deleting:
                self._finish_deletion(job, pods)
            elif job.live and not job.suspended:
                self._control(job, pods)
            # Its finalizer keeps a pod that was deleted until the Job controller has counted it.
            for pod in pods:
                if pod.deletion_requested and self.pods.get(pod.uid, pod).ended:
                    self._forget(self.pods.get(pod.uid, pod))

    def _finish_deletion(self, job: JobSnapshot, pods: list[PodSnapshot]) -> None:
        for pod in pods:
            self._ask_to_stop(pod)
        pods = [self.pods[pod.uid] for pod in pods]
        if all(pod.ended for pod in pods):
            for pod in pods:
                del self.pods[pod.uid]
            for uid in [u for u, p in self.remembered.items() if p.job_uid == job.uid]:
                del self.remembered[uid]
            del self.jobs[job.name]

    def _control(self, job: JobSnapshot, pods: list[PodSnapshot]) -> None:
        failed = [pod for pod in pods if pod.phase == "Failed" and self._counts(pod)]
        if job.stop_reason and not job.failing:
            why = {"failure_reason": "DeadlineExceeded", "failure_message": "Job was active longer"}
            self.jobs[job.name] = job = replace(job, failing=self.now, **why)
        elif failed and not job.failing:
            self.jobs[job.name] = job = replace(job, failing=self.now, **self._why(failed[0]))
        if job.failing:
            for pod in pods:
                self._ask_to_stop(pod)
            if all(self.pods[pod.uid].ended for pod in pods):
                self.jobs[job.name] = replace(job, failed=True, ended=self.now)
        elif sum(pod.phase == "Succeeded" for pod in pods) == self.completions[job.name]:
            self.jobs[job.name] = replace(job, complete=True, ended=self.now)
        elif not self.refusal:
            self._fill(job, pods)

    def _counts(self, pod: PodSnapshot) -> bool:
        """podFailurePolicy: exit code 143 is ignored."""
        return pod.disruption is not None or pod.exit_code != ExitCode.STOPPED

    def _why(self, pod: PodSnapshot) -> dict[str, str]:
        if pod.disruption:
            message = (
                f"Pod {KEY.namespace}/{pod.name} has condition DisruptionTarget matching FailJob"
            )
            return {"failure_reason": "PodFailurePolicy", "failure_message": message}
        if pod.exit_code in NOT_RETRYABLE:
            message = f"Container trainer for pod {pod.name} failed with exit code {pod.exit_code}"
            return {"failure_reason": "PodFailurePolicy", "failure_message": message}
        message = "Job has reached the specified backoff limit"
        return {"failure_reason": "BackoffLimitExceeded", "failure_message": message}

    def _fill(self, job: JobSnapshot, pods: list[PodSnapshot]) -> None:
        """A pod for each index that has none; podReplacementPolicy Failed waits for the old one."""
        there = {pod.index for pod in pods if not pod.ended or pod.phase == "Succeeded"}
        for index in set(range(self.completions[job.name])) - there:
            self._created += 1
            uid = f"pod-{self._created}"
            self.pods[uid] = PodSnapshot(
                key=KEY,
                name=f"{job.name}-{index}-{self._created}",
                uid=uid,
                version=self._created,
                job_uid=job.uid,
                component=job.component,
                attempt=job.attempt,
                index=index,
                created=self.now,
            )

    def _ask_to_stop(self, pod: PodSnapshot) -> None:
        if pod.ended or pod.deletion_requested:
            return
        phase = pod.phase if pod.running else "Failed"
        self.pods[pod.uid] = replace(pod, deletion_requested=self.now, ready=False, phase=phase)

    def _forget(self, pod: PodSnapshot) -> None:
        self.pods.pop(pod.uid, None)
        self.remembered[pod.uid] = replace(pod, gone=True)

    def start_pods(self) -> None:
        """Every pending pod is scheduled, runs, and becomes ready."""
        for uid, pod in self.pods.items():
            if pod.phase == "Pending" and not pod.waiting and not pod.deletion_requested:
                self.pods[uid] = replace(
                    pod,
                    phase="Running",
                    node=f"node-{pod.index}",
                    scheduled=self.now,
                    ip=f"10.0.0.{pod.index}",
                    running=True,
                    ready=True,
                )

    def exit(self, pod: PodSnapshot, code: int, message: Termination | str = "") -> None:
        """A container ends, with a termination message as the kubelet passes it on."""
        written = message.encode().decode() if isinstance(message, Termination) else message
        ended = replace(
            pod,
            phase="Failed" if code else "Succeeded",
            exit_code=code,
            finished=self.now,
            ready=False,
            termination=Termination.decode(written),
        )
        self.pods[pod.uid] = ended

    def stop_pods(self) -> None:
        """Pods that are terminating save and exit with 143, except on lost nodes."""
        for pod in list(self.pods.values()):
            if pod.deletion_requested and not pod.ended and pod.node != "lost":
                self.exit(pod, ExitCode.STOPPED)

    def evict(self, pod: PodSnapshot, reason: str = "EvictionByEvictionAPI") -> None:
        marked = replace(pod, disruption=reason, disruption_message="by the test")
        self.pods[pod.uid] = marked
        self._ask_to_stop(marked)

    def lose_node(self, pod: PodSnapshot) -> None:
        """The pod is asked to stop, and never does."""
        self.evict(replace(pod, node="lost"), "DeletionByTaintManager")

    def delete_pod(self, pod: PodSnapshot) -> None:
        self._ask_to_stop(pod)

    def delete_job(self, name: str, *, background: bool = False) -> None:
        """Foreground deletion; in the background the Job is gone at once, and its pods stop."""
        job = self.jobs.get(name)
        if job is None:
            return
        self.jobs[name] = replace(job, deleting=True)
        if background:
            del self.jobs[name]
            for pod in list(self.pods.values()):
                if pod.job_uid == job.uid:
                    self._ask_to_stop(pod)

    def queue_suspends(self, job: JobSnapshot) -> None:
        self.jobs[job.name] = replace(job, suspended=True)
        for pod in list(self.pods.values()):
            if pod.job_uid == job.uid:
                self._ask_to_stop(pod)

    def queue_admits(self, job: JobSnapshot) -> None:
        self.jobs[job.name] = replace(job, suspended=False, started=self.now)

    def pull_fails(self) -> None:
        for uid, pod in self.pods.items():
            if pod.phase == "Pending":
                self.pods[uid] = replace(
                    pod,
                    node="node-0",
                    scheduled=pod.scheduled or self.now,
                    waiting="ImagePullBackOff",
                    waiting_since=pod.waiting_since or self.now,
                    waiting_message='Back-off pulling image "nothing:1"',
                )

    def reports(self, step: int, **fields: Any) -> None:
        """Rank 0 answers GET /progress."""
        attempt = self.record.number if self.job.status and self.job.status.attempts else 0
        answer = {"stage": "Training", "step": step, "totalSteps": 800, "attempt": attempt} | fields
        self.reading = Reading(self.now, "10.0.0.0", Progress.model_validate(answer))

    def reports_save_of(self, step: int, **fields: Any) -> None:
        """Rank 0 answers that a checkpoint of this step is durable."""
        saved = Checkpoint(step=step, uri=f"s3://results/{step}", time=self.now)
        self.reports(step, lastCheckpoint=saved, **fields)

    # What a test asks.

    @property
    def status(self) -> Status:
        assert self.job.status is not None
        return self.job.status

    @property
    def record(self) -> AttemptStatus:
        return self.status.attempts[-1]

    @property
    def live(self) -> list[JobSnapshot]:
        return [job for job in self.jobs.values() if job.live and job.attempt is not None]

    @property
    def attempt(self) -> JobSnapshot:
        return max(self.observe().attempts, key=lambda job: job.attempt or 0)

    def pods_of(self, job: JobSnapshot) -> list[PodSnapshot]:
        found = [pod for pod in self.pods.values() if pod.job_uid == job.uid]
        return sorted(found, key=lambda pod: pod.index)

    def condition(self, kind: str) -> tuple[str, str, str]:
        """(status, reason, message)."""
        found = next(c for c in self.status.conditions if c.type == kind)
        return found.status, found.reason, found.message

    def has_condition(self, kind: str) -> bool:
        return any(c.type == kind for c in self.status.conditions)

    @property
    def event_reasons(self) -> list[str]:
        return [event.reason for event in self.events]

    # Sequences that many tests need.

    def pass_preflight(self, report: str = "the job can be trained") -> None:
        self.settle()
        preflight = next(job for job in self.jobs.values() if job.component == names.PREFLIGHT)
        if preflight.suspended:
            self.queue_admits(preflight)
        self.control_jobs()
        self.start_pods()
        (pod,) = [pod for pod in self.pods.values() if pod.component == names.PREFLIGHT]
        self.exit(pod, 0, report)
        self.control_jobs()
        self.settle()

    def run_attempt(self) -> JobSnapshot:
        """The newest attempt's pods run and have joined."""
        self.control_jobs()
        self.start_pods()
        self.settle()
        return self.attempt

    def fail(self, code: int = 1, message: Termination | str = "ValueError: x") -> None:
        """A pod of the second node fails, and its peers are stopped."""
        self.exit(self.pods_of(self.attempt)[1], code, message)
        self.control_jobs()
        self.stop_pods()
        self.control_jobs()
        self.settle()

    def finish_stopping(self) -> None:
        """Pods stop, their Job is deleted or fails, and the operator reacts."""
        for _ in range(3):
            self.settle()
            self.control_jobs()
            self.stop_pods()
            self.control_jobs()
        self.settle()


def running(**runtime: Any) -> World:
    """A world whose first attempt runs."""
    world = World(dreambooth_job(**runtime))
    world.pass_preflight()
    world.run_attempt()
    return world
