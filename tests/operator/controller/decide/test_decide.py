"""Status and children: accepted or blocked, and a lost or wrong status recovered."""

from __future__ import annotations

import json

from dreambooth_api.models.status import AttemptStatus, Counters, Status
from dreambooth_operator.controller.decide.state.observed import Blocked
from dreambooth_operator.controller.kube.job_snapshots import COUNTERS_ANNOTATION
from tests.operator.controller.world import START, World, running


def test_fields_that_the_operator_defaults_are_reported() -> None:
    world = World(defaulted=("spec.storage", "spec.runtime.queue"))
    world.settle()
    status, reason, message = world.condition("Accepted")
    assert (status, reason) == ("True", "Valid")
    assert "spec.storage, spec.runtime.queue: from the operator's defaults" in message


def test_nothing_is_done_for_a_job_that_is_being_deleted() -> None:
    world = running()
    world.deleted = True
    decision = world.decide()
    assert (decision.actions, decision.status) == ((), None)


def test_a_name_that_is_taken_is_reported_and_training_goes_on() -> None:
    world = running()
    world.blocked = Blocked("NameTaken", "Service mug-ranks exists and is not this job's", 60)
    world.settle()
    assert world.condition("Accepted")[:2] == ("False", "NameTaken")
    assert "Service mug-ranks" in world.condition("Accepted")[2]
    world.reports(step=5)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.step == 5
    assert world.status.phase == "Running"
    assert [job.name for job in world.live] == ["mug-0"]
    world.blocked = None
    world.settle()
    assert world.condition("Accepted")[0] == "True"


def test_a_lost_status_is_recovered_from_the_children() -> None:
    world = running()
    world.fail()
    world.tick(10)
    world.settle()
    world.run_attempt()
    job = world.applied[-1]
    assert json.loads(job["metadata"]["annotations"][COUNTERS_ANNOTATION])["failures"] == 1
    world.write(None)
    world.settle()
    assert world.status.phase == "Running"
    assert world.record.number == 1
    assert world.status.counters == Counters(failures=1)
    assert [job.name for job in world.live] == ["mug-1"]


def test_a_wrong_status_does_not_affect_running_training() -> None:
    world = running()
    done = AttemptStatus(number=0, started=START, ended=START, outcome="Failed", final=True)
    world.write(
        Status(phase="Failed", attempts=[done], completion_time=START, counters=Counters(stalls=9))
    )
    before = world.attempt
    world.settle()
    assert world.attempt == before
    assert world.status.phase == "Running"
    assert not world.has_condition("Failed")


def test_an_attempt_without_a_record_is_not_created_twice() -> None:
    world = World()
    world.pass_preflight()
    world.write(world.status.model_copy(update={"attempts": []}))
    world.settle()
    assert [job.name for job in world.live] == ["mug-0"]
    assert world.record.number == 0


def test_wrong_counters_are_recovered_from_the_children() -> None:
    world = running()
    world.fail()
    world.tick(10)
    world.settle()
    world.run_attempt()
    world.write(world.status.model_copy(update={"counters": Counters(failures=99, stalls=9)}))
    world.settle()
    assert world.status.counters == Counters(failures=1)
    world.fail()
    world.settle()
    assert world.status.counters == Counters(failures=2)


def test_records_of_attempts_that_never_existed_are_removed() -> None:
    world = running()
    before = world.attempt
    records = [*world.status.attempts, AttemptStatus(number=7, started=START)]
    world.write(world.status.model_copy(update={"attempts": records}))
    world.settle()
    assert world.attempt == before
    assert [record.number for record in world.status.attempts] == [0]


def test_a_running_attempt_restores_the_condition_of_its_preflight() -> None:
    world = running()
    world.write(world.status.model_copy(update={"conditions": []}))
    world.settle()
    assert world.condition("PreflightPassed")[:2] == ("True", "Passed")


def test_a_running_job_has_no_completion_time() -> None:
    world = running()
    world.write(world.status.model_copy(update={"completion_time": START}))
    world.settle()
    assert world.status.completion_time is None


def test_a_refusal_of_the_api_server_is_reported() -> None:
    world = World()
    world.blocked = Blocked("NotAllowed", "exceeded quota: team-a", 60)
    world.settle()
    assert world.condition("Accepted") == ("False", "NotAllowed", "exceeded quota: team-a")
    assert world.status.phase == "Pending"
    assert world.decide().requeue_seconds == 60
