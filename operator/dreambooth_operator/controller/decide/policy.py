"""What the operator decides by, beside the job itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """From the operator's settings."""

    default_image: str
    """Trainer image of jobs that name none."""
    progress_seconds: float = 15
    """Progress is written at most this often."""
    image_pull_grace_seconds: float = 60
    """How long an image may fail to be pulled: registries have hiccups."""
    config_grace_seconds: float = 60
    """How long a secret or ConfigMap that a pod names may be missing."""
