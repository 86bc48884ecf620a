"""The dashboards as Grafana reads them."""

import json

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dreambooth_charts.job_dashboard import job_dashboard
from dreambooth_charts.jobs_dashboard import jobs_dashboard


def dashboards() -> dict[str, str]:
    """The JSON of each dashboard by the name of its file below files/dashboards of the chart."""
    return {"jobs.json": _to_json(jobs_dashboard()), "job.json": _to_json(job_dashboard())}


def _to_json(dashboard: Dashboard) -> str:
    built = dashboard.build()
    for number, panel in enumerate(built.panels or [], start=1):
        panel.id_val = number  # Grafana would renumber them at each load
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
