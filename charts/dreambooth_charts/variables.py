"""What is chosen at the top of a dashboard."""

from grafana_foundation_sdk.builders.dashboard import (
    DatasourceVariable,
    QueryVariable,
    TextBoxVariable,
)
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

from dreambooth_charts.panels import SOURCE

BROWSER = "https://s3.console.aws.amazon.com/s3/buckets/"


def datasource() -> DatasourceVariable:
    """The Prometheus to ask."""
    return DatasourceVariable("datasource").label("Data source").type("prometheus")


def namespaces() -> QueryVariable:
    """Any number of namespaces."""
    return _everything(namespace())


def jobs() -> QueryVariable:
    """Any number of the jobs in them."""
    return _everything(_labels("job", "Job", 'dreambooth_job_info{namespace=~"$namespace"}'))


def namespace() -> QueryVariable:
    """One namespace that has jobs."""
    return _labels("namespace", "Namespace", "dreambooth_job_info")


def job() -> QueryVariable:
    """One job of that namespace."""
    return _labels("job", "Job", 'dreambooth_job_info{namespace="$namespace"}')


def browser() -> TextBoxVariable:
    """Where a bucket is looked at with a browser."""
    return (
        TextBoxVariable("browser")
        .label("S3 browser")
        .description("Address to which a bucket and ?prefix= are added to look at samples.")
        .default_value(BROWSER)
    )


def _labels(name: str, label: str, series: str) -> QueryVariable:
    """The values of a label, of all that were there in the time that is shown."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": f"label_values({series}, {name})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _everything(variable: QueryVariable) -> QueryVariable:
    """Several of them, at first all; also those that come later."""
    everything = VariableOption(text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".+").current(everything)
