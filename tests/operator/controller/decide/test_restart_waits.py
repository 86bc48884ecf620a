"""The cluster restarts by the same policy as a local run."""

from datetime import UTC, datetime

import pytest

from dreambooth_api.contract.stages import Outcome
from dreambooth_api.models.runtime import Restart
from dreambooth_api.models.status import AttemptStatus
from dreambooth_operator.controller.decide import history
from tests.operator.restarts import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, WAITS

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("outcomes", "seconds"), WAITS)
def test_cluster_waits_as_the_policy_says(outcomes: list[Outcome], seconds: int) -> None:
    records = [
        AttemptStatus(number=number, started=STARTED, outcome=outcome)
        for number, outcome in enumerate(outcomes)
    ]
    policy = Restart(backoff_seconds=BACKOFF_SECONDS, max_backoff_seconds=MAX_BACKOFF_SECONDS)
    assert history.wait_seconds(records, policy) == seconds
