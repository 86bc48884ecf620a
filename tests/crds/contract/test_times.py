"""Times and spans of time, as Kubernetes writes them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dreambooth_api.contract.times import human_duration, rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0.9, "0s"),
        (95, "95s"),
        (120, "2m"),
        (150, "2m30s"),
        (599, "9m59s"),
        (720, "12m"),
        (11_400, "3h10m"),
        (28_800, "8h"),
        (190_000, "2d4h"),
        (900_000, "10d"),
    ],
)
def test_a_duration_reads_as_kubectl_prints_ages(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_time_is_written_in_utc_to_the_second() -> None:
    berlin = timezone(timedelta(hours=2))
    assert rfc3339(datetime(2026, 7, 1, 12, 0, 0, 999_999, berlin)) == "2026-07-01T10:00:00Z"
    assert rfc3339(datetime(2026, 7, 1, tzinfo=UTC)) == "2026-07-01T00:00:00Z"
