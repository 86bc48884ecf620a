"""Start options of the double."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The choices of one double."""

    schema_version: str = "1.37"
    """Minor version of Kubernetes to be: its schemas, and what it lets change."""
    history: int = 20_000
    """Changes that are kept per resource, for watches that start in the past."""
    toleration_seconds: int = 300
    """How long pods tolerate a node that is lost, where they do not say."""
