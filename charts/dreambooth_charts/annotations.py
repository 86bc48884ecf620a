"""Annotations at the times in a metric."""

from dataclasses import dataclass

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery

from dreambooth_charts.panels import SOURCE, Query


@dataclass(frozen=True)
class TimeAnnotations(Builder[AnnotationQuery]):
    """An annotation at each Unix time, in milliseconds, that a query returns.

    Prometheus' times are in seconds: multiply them by 1000 in the query.
    """

    name: str
    query: Query
    title: str
    """Its title, with labels of the series in `{{ }}`; `text` is shown below it."""
    color: str
    text: str = ""

    def build(self) -> AnnotationQuery:
        """Build the annotation, as Grafana's builders do."""
        return _Annotation(self)


class _Annotation(AnnotationQuery):
    """Adds fields that the Prometheus data source reads but Grafana's own type lacks."""

    def __init__(self, annotation: TimeAnnotations) -> None:
        super().__init__(
            name=annotation.name,
            datasource=SOURCE,
            icon_color=annotation.color,
            expr=annotation.query.expr,
        )
        self._annotation = annotation

    def to_json(self) -> dict[str, object]:
        """The JSON of the annotation."""
        return super().to_json() | {
            "titleFormat": self._annotation.title,
            "textFormat": self._annotation.text,
            "useValueForTime": True,
        }
