"""Marks at the times that a metric names."""

from grafana_foundation_sdk.builders.dashboard import AnnotationQuery as Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery

from dreambooth_charts.panels import SOURCE, Query


class _Marks(AnnotationQuery):
    """What the Prometheus data source reads of an annotation beside what Grafana's types know."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__(datasource=SOURCE)
        self._title, self._text = title, text

    def to_json(self) -> dict[str, object]:
        """Values are times in milliseconds (`useValueForTime`)."""
        return super().to_json() | {
            "titleFormat": self._title,
            "textFormat": self._text,
            "useValueForTime": True,
        }


def marks(name: str, query: Query, *, title: str, color: str, text: str = "") -> Builder:
    """A mark at each time in milliseconds that a query returns."""
    builder = Builder()
    builder._internal = _Marks(title, text)
    return builder.name(name).expr(query.expr).icon_color(color)
