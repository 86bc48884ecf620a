"""The cluster restarts by the same policy as a local run."""

from __future__ import annotations

import pytest

from dreambooth_api.contract.stages import Outcome
from dreambooth_api.models.status import AttemptStatus, Status
from tests.operator.controller.world import START, World, dreambooth_job
from tests.operator.restarts import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, WAITS


@pytest.mark.parametrize(("outcomes", "seconds"), WAITS)
def test_cluster_waits_as_the_policy_says(outcomes: list[Outcome], seconds: int) -> None:
    restart = {"backoffSeconds": BACKOFF_SECONDS, "maxBackoffSeconds": MAX_BACKOFF_SECONDS}
    world = World(dreambooth_job(restart=restart))
    records = [
        AttemptStatus(number=number, started=START, ended=START, outcome=outcome)
        for number, outcome in enumerate(outcomes)
    ]
    world.write(Status().model_copy(update={"attempts": records}))
    assert world.decide().requeue_seconds == seconds
    world.tick(seconds - 1)
    assert world.decide().actions == ()
    world.tick(1)
    assert world.decide().actions != ()
