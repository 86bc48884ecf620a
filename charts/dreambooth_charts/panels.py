"""The kinds of panels that the dashboards use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueGraphMode,
    BigValueTextMode,
    StackingMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Panel,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

# The data source that is chosen at the top: a dashboard in a chart knows no cluster's own.
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
Panels = Builder[Panel]


@dataclass(frozen=True)
class Query:
    """A PromQL expression, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    field: str
    """Name of the label, or `Value #A` of the first query."""
    title: str
    unit: str = "none"
    link: str = ""
    """URL that a click opens."""
    tooltip: str = ""


def series(
    title: str, unit: str, *queries: Query, text: str, span: int = 8, stacked: bool = False
) -> Panels:
    """Lines over time.

    Args:
        title: Title of the panel.
        unit: Grafana's name of the unit of all values, for example "s" or "Bps".
        queries: One line for each series of each of these.
        text: Description, shown when the pointer rests on the title.
        span: Width, of 24 columns.
        stacked: Show the values on top of each other.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(HEIGHT)
        .show_points(VisibilityMode.NEVER)
        .fill_opacity(40 if stacked else 5)
        .min(0)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel.targets([_range(query, ref) for query, ref in _with_refs(queries)])


def numbers(
    title: str, unit: str, *queries: Query, text: str, span: int = 4, height: int = 4
) -> Panels:
    """The newest values, large; arguments as for `series`, with the height in rows of the grid."""
    named = any(query.legend for query in queries)
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(height)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE_AND_NAME if named else BigValueTextMode.VALUE)
        .reduce_options(_newest())
        .targets([_instant(query, ref) for query, ref in _with_refs(queries)])
    )


def labels(title: str, query: Query, text: str, span: int = 4, height: int = 4) -> Panels:
    """The legends of the series that exist, such as a phase, large."""
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .span(span)
        .height(height)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.NAME)
        .reduce_options(_newest())
        .with_target(_instant(query, "A"))
    )


def bars(title: str, unit: str, query: Query, text: str, span: int = 8) -> Panels:
    """The newest values as bars; arguments as for `series`."""
    return (
        bargauge.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(span)
        .height(HEIGHT)
        .min(0)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(_newest())
        .with_target(_instant(query, "A"))
    )


def rows(
    title: str, columns: Sequence[Column], *queries: Query, text: str, height: int = HEIGHT
) -> Panels:
    """A table as wide as the dashboard: the series of all queries, joined by their labels."""
    names = {column.field: column.title for column in columns}
    order = {column.field: index for index, column in enumerate(columns)}
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .span(24)
        .height(height)
        .targets([_table(query, ref) for query, ref in _with_refs(queries)])
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(_organize(order, names))
    )
    for column in columns:
        panel.override_by_name(column.title, _properties(column))
    return panel


def _organize(order: Mapping[str, int], names: Mapping[str, str]) -> DataTransformerConfig:
    """Show only these columns, in their order, under their titles."""
    return DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": {"Time": True},
            "includeByName": dict.fromkeys(order, True),
            "indexByName": dict(order),
            "renameByName": dict(names),
        },
    )


def _properties(column: Column) -> list[DynamicConfigValue]:
    properties = [DynamicConfigValue("unit", column.unit)]
    if column.link:
        link = {"title": column.tooltip, "url": column.link, "targetBlank": False}
        properties.append(DynamicConfigValue("links", [link]))
    return properties


def _newest() -> common.ReduceDataOptions:
    # The newest sample may be missing in the last seconds of the range.
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _with_refs(queries: Sequence[Query]) -> list[tuple[Query, str]]:
    """Queries with the reference letters that Grafana requires."""
    return [(query, chr(ord("A") + index)) for index, query in enumerate(queries)]


def _query(query: Query, ref: str) -> prometheus.Dataquery:
    query_builder = prometheus.Dataquery().expr(query.expr).ref_id(ref).datasource(SOURCE)
    return query_builder.legend_format(query.legend) if query.legend else query_builder


def _range(query: Query, ref: str) -> prometheus.Dataquery:
    return _query(query, ref).range()


def _instant(query: Query, ref: str) -> prometheus.Dataquery:
    return _query(query, ref).instant()


def _table(query: Query, ref: str) -> prometheus.Dataquery:
    return _instant(query, ref).format(PromQueryFormat.TABLE)
