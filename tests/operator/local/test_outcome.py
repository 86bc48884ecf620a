"""How an attempt's end is judged, and how long the next one waits."""

import pytest

from dreambooth_api.models.runtime import Restart
from dreambooth_operator.local.outcome import PodEnd, backoff_seconds, judge


def ends(*codes: int) -> list[PodEnd]:
    """Pods that ended in this order."""
    return [PodEnd(index, code) for index, code in enumerate(codes)]


@pytest.mark.parametrize(
    ("codes", "outcome", "retryable", "culprit"),
    [
        ((0, 0), "Succeeded", False, None),
        ((0, 1), "Failed", True, 1),
        ((137, 1, 143), "Failed", True, 0),
        ((1, 65), "Failed", False, 1),
        ((69,), "Failed", False, 0),
        ((70,), "Stalled", True, 0),
        ((1, 70), "Stalled", True, 1),
        ((70, 66), "Failed", False, 1),
        ((71,), "Failed", True, 0),
        ((143, 143), "Disrupted", True, 0),
        ((143, 1), "Disrupted", True, 0),
        ((1, 143), "Failed", True, 0),
    ],
)
def test_verdict(
    codes: tuple[int, ...], outcome: str, retryable: bool, culprit: int | None
) -> None:
    verdict = judge(ends(*codes))
    assert verdict.outcome == outcome
    assert verdict.retryable is retryable
    assert (verdict.culprit.index if verdict.culprit else None) == culprit


def test_backoff_doubles_up_to_its_limit() -> None:
    policy = Restart(backoff_seconds=10, max_backoff_seconds=60)
    assert [backoff_seconds(policy, n) for n in (1, 2, 3, 4, 1000)] == [10, 20, 40, 60, 60]
