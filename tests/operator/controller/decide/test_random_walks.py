"""Random walks: the invariants hold in any order of events, wherever the operator crashes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dreambooth_api.models.status import Counters, Status
from tests.operator.controller.world import CrashError, World, dreambooth_job

OVER = ("Succeeded", "Failed")


class Walk(RuleBasedStateMachine):
    """The operator in a cluster where anything may happen."""

    @initialize(
        queue=st.booleans(),
        failures=st.integers(0, 3),
        running=st.booleans(),
        run_in=st.sampled_from(["Job", "FirstPod"]),
    )
    def start(self, queue: bool, failures: int, running: bool, run_in: str) -> None:
        runtime: dict[str, Any] = {"restart": {"maxFailures": failures}}
        if queue:
            runtime["queue"] = "gpus"
        runtime["preflight"] = {"runIn": run_in}
        self.world = World(
            dreambooth_job(activeDeadlineSeconds=3600, ttlSecondsAfterFinished=600, **runtime)
        )
        if running:
            if run_in == "Job":
                self.world.pass_preflight()
            self.world.settle()
            self.flow()
        self.counters = Counters()
        self.over: str | None = None
        self.applied_before: int | None = None

    # The operator.

    @rule(crash_after=st.none() | st.integers(0, 4))
    def reconcile(self, crash_after: int | None) -> None:
        with suppress(CrashError):
            self.world.reconcile(crash_after)

    @rule()
    def restart_operator(self) -> None:
        self.world.restart_operator()

    @rule()
    def settle(self) -> None:
        """Reconciling settles, and then nothing is written."""
        self.world.settle()
        writes = self.world.writes
        decision = self.world.reconcile()
        assert (decision.status, decision.actions, decision.events) == (None, (), ())
        assert self.world.writes == writes
        if decision.requeue_seconds is None or decision.requeue_seconds > 20:
            self.world.tick(20)
            assert self.world.decide().status is None, "time alone wrote a status"

    # The cluster.

    @rule(seconds=st.sampled_from([1, 1, 15, 60, 60, 700]))
    def tick(self, seconds: int) -> None:
        self.world.tick(seconds)

    @rule()
    def control_jobs(self) -> None:
        self.world.control_jobs()

    @rule()
    def flow(self) -> None:
        """For a while, everything goes well."""
        for job in list(self.world.jobs.values()):
            if job.live and job.suspended:
                self.world.queue_admits(job)
        self.world.stop_pods()
        self.world.control_jobs()
        self.world.start_pods()
        self.world.settle()

    @rule()
    def start_pods(self) -> None:
        self.world.start_pods()

    @rule()
    def stop_pods(self) -> None:
        self.world.stop_pods()

    @rule(data=st.data(), code=st.sampled_from([0, 1, 1, 64, 70, 137, 143]))
    def exit_pod(self, data: st.DataObject, code: int) -> None:
        if pods := [pod for pod in self.world.pods.values() if pod.running and not pod.ended]:
            self.world.exit(data.draw(st.sampled_from(pods)), code)

    @rule(data=st.data(), what=st.sampled_from(["evict", "lose_node", "delete_pod"]))
    def disturb_pod(self, data: st.DataObject, what: str) -> None:
        if pods := [pod for pod in self.world.pods.values() if not pod.ended]:
            getattr(self.world, what)(data.draw(st.sampled_from(pods)))

    @rule(refused=st.booleans())
    def refuse_pods(self, refused: bool) -> None:
        self.world.refusal = "exceeded quota: team" if refused else ""

    @rule()
    def pull_fails(self) -> None:
        self.world.pull_fails()

    @precondition(lambda self: self.world.job.spec.runtime.queue)
    @rule()
    def queue_turns(self) -> None:
        for job in [job for job in self.world.jobs.values() if job.live]:
            turn = self.world.queue_admits if job.suspended else self.world.queue_suspends
            turn(job)

    @rule(step=st.integers(0, 800), failed_saves=st.integers(0, 2))
    def report_progress(self, step: int, failed_saves: int) -> None:
        problem = "no space left" if failed_saves else None
        self.world.reports(step, failedSaves=failed_saves, saveProblem=problem)

    # The user.

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.world.change(suspend=suspend)

    @precondition(lambda self: self.world.job.spec.suspend)
    @rule(nodes=st.integers(1, 3))
    def change_nodes(self, nodes: int) -> None:
        self.world.change(nodes=nodes)

    @rule(data=st.data())
    def delete_child_job(self, data: st.DataObject) -> None:
        if self.world.jobs:
            self.world.delete_job(data.draw(st.sampled_from(sorted(self.world.jobs))))

    @precondition(lambda self: not self.world.deleted)
    @rule()
    def delete(self) -> None:
        self.world.deleted = True
        self.applied_before = len(self.world.applied)

    # What holds.

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        assert len(self.world.live) <= 1, [job.name for job in self.world.live]

    @invariant()
    def no_child_of_a_deleted_job(self) -> None:
        if self.applied_before is not None:
            assert len(self.world.applied) == self.applied_before

    @invariant()
    def counters_only_grow(self) -> None:
        new = (self.world.job.status or Status()).counters or Counters()
        for name in Counters.model_fields:
            assert getattr(new, name) >= getattr(self.counters, name), name
        self.counters = new

    @invariant()
    def what_is_over_stays_over(self) -> None:
        status = self.world.job.status or Status()
        if self.over:
            assert status.phase == self.over
            assert not self.world.live
        elif status.phase in OVER:
            self.over = status.phase
            assert status.completion_time is not None

    @invariant()
    def records_are_in_order(self) -> None:
        records = (self.world.job.status or Status()).attempts
        numbers = [record.number for record in records]
        assert numbers == sorted(set(numbers))
        assert all(record.ended for record in records[:-1])
        assert all(record.outcome for record in records if record.ended)


class LongWalk(Walk):
    """Longer walks, with a new seed each time."""


USUAL = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
Walk.TestCase.settings = USUAL
LongWalk.TestCase.settings = settings(
    USUAL, max_examples=3000, stateful_step_count=100, derandomize=False
)
TestWalk = Walk.TestCase
TestLongWalk = pytest.mark.slow(LongWalk.TestCase)
