"""Marks at the times that a metric names."""

from dataclasses import dataclass

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery

from dreambooth_charts.panels import SOURCE, Query


@dataclass(frozen=True)
class Marks(Builder[AnnotationQuery]):
    """A mark at each time in milliseconds that a query returns."""

    name: str
    query: Query
    title: str
    """What a mark says, with labels of the series in `{{ }}`; `text` the same, below it."""
    color: str
    text: str = ""

    def build(self) -> AnnotationQuery:
        """The annotation."""
        return _Annotation(self)


class _Annotation(AnnotationQuery):
    """With what the Prometheus data source reads, and Grafana's own type does not know."""

    def __init__(self, marks: Marks) -> None:
        super().__init__(
            name=marks.name, datasource=SOURCE, icon_color=marks.color, expr=marks.query.expr
        )
        self._marks = marks

    def to_json(self) -> dict[str, object]:
        """What is written."""
        return super().to_json() | {
            "titleFormat": self._marks.title,
            "textFormat": self._marks.text,
            "useValueForTime": True,
        }
