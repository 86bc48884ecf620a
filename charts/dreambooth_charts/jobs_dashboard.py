"""The dashboard of all jobs.

Two operators may expose series of a job while one takes over from the other, so series are
aggregated by the labels of the job before they are counted.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

from dreambooth_charts import variables
from dreambooth_charts.job_dashboard import UID as JOB_UID
from dreambooth_charts.panels import Column, Panels, Query, bars, rows, series

UID = "dreambooth-jobs"
CHOSEN = 'namespace=~"$namespace", job=~"$job"'
OPEN = (
    f"/d/{JOB_UID}?${{datasource:queryparam}}&${{__url_time_range}}"
    "&var-namespace=${__data.fields.Namespace}&var-job=${__data.fields.Job}"
)


def jobs_dashboard() -> Dashboard:
    """All jobs: their phases, GPUs, delays and losses, the operator, and the server of images."""
    dashboard = (
        Dashboard("DreamBooth / Jobs")
        .uid(UID)
        .description("All DreamBoothJobs of a cluster, and their operator.")
        .tags(["dreambooth"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .variables([variables.datasource(), variables.namespaces(), variables.jobs()])
    )
    for row, panels in (
        ("Jobs", (_phases(), _gpus(), _table())),
        ("Waiting", (_waiting(), _delays(), _interruptions())),
        ("Training", (_throughput(), _losses(), _storage())),
        ("Operator", (_reconciliation(), _api_responses(), _watch_ages())),
        ("Server of images", (_images_made(), _images_waiting(), _request_times())),
    ):
        dashboard.with_row(Row(row))
        for panel in panels:
            dashboard.with_panel(panel)
    return dashboard


def _query(expr: str, legend: str = "") -> Query:
    """A query in which CHOSEN stands for the labels of the chosen jobs."""
    return Query(expr.replace("CHOSEN", CHOSEN), legend)


def _phases() -> Panels:
    return series(
        "Phases",
        "short",
        _query(
            "count by (phase) (max by (namespace, job, phase) (dreambooth_job_phase{CHOSEN}))",
            "{{phase}}",
        ),
        text="Jobs by phase. Those that have ended are counted until they are deleted.",
        span=12,
        stacked=True,
    )


def _gpus() -> Panels:
    return series(
        "GPUs",
        "short",
        _query("sum(max by (namespace, job) (dreambooth_job_gpus_in_use{CHOSEN}))", "in use"),
        _query(
            # vector(0): a cluster without unfinished jobs shows 0, and not "No data".
            "sum(max by (namespace, job) (dreambooth_job_gpus_requested{CHOSEN}"
            ' and ignoring (phase, stage) dreambooth_job_phase{phase!~"Succeeded|Failed|Suspended"}'
            ")) or vector(0)",
            "requested",
        ),
        text="GPUs that pods hold, and GPUs that all unfinished jobs request. The difference waits"
        " in the queue or for nodes.",
        span=12,
    )


def _table() -> Panels:
    return rows(
        "All jobs",
        (
            Column("namespace", "Namespace"),
            Column("job", "Job", link=OPEN, tooltip="Open the job"),
            Column("phase", "Phase"),
            Column("stage", "Stage"),
            Column("Value #B", "Done", "percentunit"),
            Column("Value #C", "In this phase", "s"),
            Column("Value #D", "GPUs"),
            Column("Value #E", "Interruptions"),
        ),
        _query("max by (namespace, job, phase, stage) (dreambooth_job_phase{CHOSEN})"),
        _query(
            "max by (namespace, job) (dreambooth_job_step{CHOSEN}"
            " / (dreambooth_job_target_steps > 0))"
        ),
        _query(
            "time() - max by (namespace, job)"
            " (dreambooth_job_phase_start_timestamp_seconds{CHOSEN})"
        ),
        _query("max by (namespace, job) (dreambooth_job_gpus_in_use{CHOSEN})"),
        _query(
            "sum by (namespace, job)"
            " (max by (namespace, job, reason) (dreambooth_job_interruptions_total{CHOSEN}))"
        ),
        text="A click on a name opens the job.",
        height=10,
    )


def _waiting() -> Panels:
    return series(
        "Waiting jobs",
        "s",
        _query(
            "topk(20, time() - max by (namespace, job) ("
            "dreambooth_job_phase_start_timestamp_seconds{CHOSEN} and ignoring (phase, stage)"
            # `and` keeps the jobs that are in such a phase; the two series differ in their labels.
            ' dreambooth_job_phase{phase=~"Pending|Preflight|Queued|Starting|Restarting"}))',
            "{{namespace}}/{{job}}",
        ),
        text="Time that the jobs that wait longest have spent in their phase: preflight, queued,"
        " without nodes, or between two attempts.",
    )


def _delays() -> Panels:
    quantile = (
        # An hour, whatever the range: attempts start too rarely for a rate over minutes.
        "histogram_quantile({}, sum by (le) (increase(dreambooth_operator_{}_seconds_bucket[1h])))"
    )
    return series(
        "Queue and start time",
        "s",
        *(
            Query(quantile.format(share, part), f"{name}, {label}")
            for part, name in (("queue", "in the queue"), ("start", "from there to training"))
            for share, label in ((0.5, "median"), (0.9, "90th percentile"))
        ),
        text="Of the attempts that began to train in the last hour, in all namespaces.",
    )


def _interruptions() -> Panels:
    return series(
        "Interruptions by reason",
        "short",
        _query(
            "sum by (reason) (max by (namespace, job, reason)"
            " (increase(dreambooth_job_interruptions_total{CHOSEN}[1h])))",
            "{{reason}}",
        ),
        text="Attempts that ended in the last hour without success. Failed and Stalled use up the"
        " restart budget of a job, the others do not.",
        stacked=True,
    )


def _throughput() -> Panels:
    return series(
        "Throughput",
        "short",
        _query(
            "topk(20, max by (namespace, job) ("
            'dreambooth_trainer_images_per_second{CHOSEN, rank="0"} and ignoring (stage)'
            ' (dreambooth_trainer_stage{stage="Training"} == 1)))',
            "{{namespace}}/{{job}}",
        ),
        text="Images per second over all ranks, of the 20 fastest jobs.",
    )


def _losses() -> Panels:
    return bars(
        "Largest losses",
        "short",
        _query(
            "sort_desc(topk(10,"
            ' max by (namespace, job) (dreambooth_trainer_loss{CHOSEN, rank="0"})))',
            "{{namespace}}/{{job}}",
        ),
        text="The 10 jobs with the largest loss of the last step.",
    )


def _storage() -> Panels:
    return series(
        "S3",
        "Bps",
        _query(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_bytes_total{CHOSEN}[$__rate_interval]))",
            "{{operation}}",
        ),
        text="Bytes to and from storage.",
    )


def _reconciliation() -> Panels:
    quantile = (
        "histogram_quantile({}, sum by (le)"
        " (rate(dreambooth_operator_reconcile_seconds_bucket[$__rate_interval])))"
    )
    return series(
        "Reconciliation time",
        "s",
        Query(quantile.format(0.5), "median"),
        Query(quantile.format(0.99), "99th percentile"),
        Query("max(dreambooth_operator_queue_oldest_seconds)", "oldest in the queue"),
        text="Duration of one reconciliation, and of the longest wait for one. The operator is too"
        " slow if jobs wait for more than a few seconds.",
    )


def _api_responses() -> Panels:
    return series(
        "Responses of the API server",
        "reqps",
        Query(
            "sum by (verb, code) (rate(dreambooth_operator_api_requests_total[$__rate_interval]))",
            "{{verb}} {{code}}",
        ),
        text="429: the operator sends too many requests. 403: it lacks a permission. An occasional"
        " 409 is normal.",
    )


def _watch_ages() -> Panels:
    return series(
        "Watches",
        "s",
        Query(
            "max by (resource) (dreambooth_operator_watch_age_seconds"
            # A process on standby watches nothing, so its ages only grow.
            " and on (instance) (dreambooth_operator_leader == 1))",
            "{{resource}}",
        ),
        text="Time since each watch was last known to work: at most settings.resyncSeconds in a"
        " healthy operator.",
    )


def _images_made() -> Panels:
    return series(
        "Images made",
        "short",
        Query(
            "topk(20, sum by (model) (rate(dreambooth_serving_images_total[$__rate_interval])))",
            "{{model}}",
        ),
        text="Images per second, of the 20 results that are asked for most.",
        stacked=True,
    )


def _images_waiting() -> Panels:
    return series(
        "Images waiting, and requests refused",
        "short",
        Query("sum(dreambooth_serving_queued_images)", "waiting"),
        Query(
            "sum by (status)"
            ' (increase(dreambooth_serving_requests_total{status=~"4..|5.."}[$__rate_interval]))',
            "refused with {{status}}",
        ),
        text="Images in the queues of all pods. 429: a queue is full, or a token has used up its"
        " quota.",
    )


def _request_times() -> Panels:
    quantile = (
        "histogram_quantile(0.9, sum by (le)"
        " (rate(dreambooth_serving_{}_seconds_bucket[$__rate_interval])))"
    )
    return series(
        "Time of requests",
        "s",
        Query(quantile.format("first_event"), "to the first event"),
        Query(quantile.format("request"), "to the last image"),
        text="90th percentile, with the time that they wait.",
    )
