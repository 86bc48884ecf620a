"""How long ago something was, as kubectl prints it."""

from __future__ import annotations

import datetime as dt

from tests.cluster.apiserver.resources import Json


def since(text: str) -> str:
    """How long ago a time was, as kubectl prints it: 45s, 3m12s, 5h, 2d."""
    moment = dt.datetime.fromisoformat(text)
    return duration((dt.datetime.now(dt.UTC) - moment).total_seconds())


def duration(seconds: float) -> str:
    """Apimachinery's HumanDuration."""
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < -1:
        return "<invalid>"
    if whole < 120:
        return f"{max(whole, 0)}s"
    if minutes < 10:
        return f"{minutes}m{whole % 60}s" if whole % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def age(content: Json) -> str:
    return since(content["metadata"]["creationTimestamp"])
