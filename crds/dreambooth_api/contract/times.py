"""Times as Kubernetes writes them, and spans of time as kubectl prints them."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current time in UTC, to the second as in a meta/v1 Time."""
    # A fraction would be lost in the status, which then differs from what is compared with it.
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(time: datetime) -> str:
    """Format a time as Kubernetes does (meta/v1 Time): RFC 3339 in UTC, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def human_duration(seconds: float) -> str:
    """Format `seconds`, rounded down, as kubectl prints ages: 95s, 9m30s, 12m, 3h10m, 2d4h.

    Source: k8s.io/apimachinery, duration.HumanDuration.
    """
    whole = int(max(seconds, 0))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    return _two(days, "d", hours % 24, "h") if days < 8 else f"{days}d"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")
