"""The variables at the top of a dashboard."""

from grafana_foundation_sdk.builders.dashboard import (
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

from dreambooth_charts.panels import SOURCE

# AWS's console; MinIO and others have web pages of their own.
BROWSER = "https://s3.console.aws.amazon.com/s3/buckets/"


def datasource() -> DatasourceVariable:
    """The Prometheus data source."""
    return DatasourceVariable("datasource").label("Data source").type("prometheus")


def namespaces() -> QueryVariable:
    """Any number of namespaces."""
    return _multiple(namespace())


def jobs() -> QueryVariable:
    """Any number of the jobs in them."""
    return _multiple(_labels("job", "Job", 'dreambooth_job_info{namespace=~"$namespace"}'))


def namespace() -> QueryVariable:
    """One namespace that has jobs."""
    return _labels("namespace", "Namespace", "dreambooth_job_info")


def job() -> QueryVariable:
    """One job of that namespace."""
    return _labels("job", "Job", 'dreambooth_job_info{namespace="$namespace"}')


def browser() -> TextBoxVariable:
    """The URL of a web page that shows the objects of a bucket."""
    return (
        TextBoxVariable("browser")
        .label("S3 browser")
        .description("URL to which a bucket and ?prefix= are appended to show samples.")
        .default_value(BROWSER)
    )


def _labels(name: str, label: str, series: str) -> QueryVariable:
    """The values of a label among the series in the dashboard's time range."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": f"label_values({series}, {name})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _multiple(variable: QueryVariable) -> QueryVariable:
    """Allow several values. The default is all of them, including those that appear later."""
    all_values = VariableOption(text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".+").current(all_values)
