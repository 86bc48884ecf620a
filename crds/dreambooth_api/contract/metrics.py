"""What a table of metrics says of one."""

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Definition:
    """A Prometheus metric."""

    name: str
    """As it is exposed: a counter ends in `_total`, a histogram's series in `_bucket` and so on."""
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str
