"""The Prometheus metrics of trainer, operator and server: prefixes, labels and definitions."""

from dataclasses import dataclass
from typing import Final, Literal

MetricKind = Literal["counter", "gauge", "histogram"]

TRAINER_PREFIX: Final = "dreambooth_trainer"
JOB_PREFIX: Final = "dreambooth_job"
OPERATOR_PREFIX: Final = "dreambooth_operator"
SERVING_PREFIX: Final = "dreambooth_serving"

JOB_LABELS: Final = ("namespace", "job")
"""Labels of everything that is about one job."""
RANK_LABELS: Final = (*JOB_LABELS, "attempt", "rank")
"""Labels of everything that a rank of the trainer exposes."""


@dataclass(frozen=True)
class Definition:
    """A Prometheus metric, in base units: seconds and bytes."""

    name: str
    """As it is exposed: a counter ends in `_total`, a histogram's series in `_bucket` and so on."""
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str
