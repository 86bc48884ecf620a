"""The dashboard of one job.

Rank 0 reports losses and speed for all ranks. The pods of an attempt come and go, so their series
are aggregated by job.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

from dreambooth_charts import variables
from dreambooth_charts.annotations import TimeAnnotations
from dreambooth_charts.panels import Column, Panels, Query, labels, numbers, rows, series

UID = "dreambooth-job"
CHOSEN = 'namespace="$namespace", job="$job"'
# Raw: Grafana would otherwise escape the slashes of the address.
SAMPLES = "${browser:raw}${__data.fields.Bucket}?prefix=${__data.fields.Folder}/samples/"


def job_dashboard() -> Dashboard:
    """One job: how far it is, how it learns, and where its time goes."""
    dashboard = (
        Dashboard("DreamBooth / Job")
        .uid(UID)
        .description("One DreamBoothJob. Attempts are marked where they began and ended.")
        .tags(["dreambooth"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("10s")
        .variables(
            [
                variables.datasource(),
                variables.namespace(),
                variables.job(),
                variables.browser(),
            ]
        )
        .annotations([_starts(), _ends()])
    )
    for row, panels in (
        ("State", (_phase(), _progress(), _left(), _attempt(), _unsaved(), _gpus())),
        ("Learning", (_losses(), _parts(), _rate(), _scores(), _best(), _validation())),
        ("Speed", (_images(), _step_time(), _memory())),
        ("Storage", (_bytes(), _requests(), _latency())),
        ("Results", (_results(),)),
    ):
        dashboard.with_row(Row(row))
        for panel in panels:
            dashboard.with_panel(panel)
    return dashboard


def _query(expr: str, legend: str = "") -> Query:
    """A query in which CHOSEN stands for the labels of the chosen job."""
    return Query(expr.replace("CHOSEN", CHOSEN), legend)


def _starts() -> TimeAnnotations:
    return TimeAnnotations(
        "Attempts",
        _query("max by (attempt) (dreambooth_job_attempt_start_timestamp_seconds{CHOSEN}) * 1000"),
        title="Attempt {{attempt}} began",
        color="blue",
    )


def _ends() -> TimeAnnotations:
    return TimeAnnotations(
        "Ends",
        _query(
            "max by (attempt, outcome, exit_code)"
            " (dreambooth_job_attempt_end_timestamp_seconds{CHOSEN}) * 1000"
        ),
        title="Attempt {{attempt}}: {{outcome}}",
        color="orange",
        text="exit code {{exit_code}}",
    )


def _phase() -> Panels:
    return labels(
        "Phase",
        _query("max by (phase, stage) (dreambooth_job_phase{CHOSEN})", "{{phase}} {{stage}}"),
        text="What `kubectl get dbj` shows.",
    )


def _progress() -> Panels:
    return numbers(
        "Done",
        "percentunit",
        # `> 0` leaves out a series instead of dividing by 0, here and below.
        _query("max(dreambooth_job_step{CHOSEN} / (dreambooth_job_target_steps{CHOSEN} > 0))"),
        text="Share of the optimizer steps that are done.",
    )


def _left() -> Panels:
    return numbers(
        "Training left",
        "s",
        _query(
            "max(dreambooth_trainer_target_steps{CHOSEN} - dreambooth_trainer_step{CHOSEN})"
            " * avg(rate(dreambooth_trainer_step_seconds_sum{CHOSEN}[$__rate_interval])"
            " / (rate(dreambooth_trainer_step_seconds_count{CHOSEN}[$__rate_interval]) > 0))"
        ),
        text="At the present speed, without checkpoints and samples.",
    )


def _attempt() -> Panels:
    return labels(
        "Attempt",
        _query(
            "topk(1, max by (attempt) (dreambooth_job_attempt_start_timestamp_seconds{CHOSEN}))",
            "{{attempt}}",
        ),
        text="Number of the newest attempt, from 0. More than 0: the job has been restarted.",
    )


def _unsaved() -> Panels:
    return numbers(
        "Not saved for",
        "s",
        _query(
            # Rank 0 commits the checkpoints of all ranks.
            'time() - max(dreambooth_trainer_unsaved_since_timestamp_seconds{CHOSEN, rank="0"})'
        ),
        text="Work that would be lost if a node failed now.",
    )


def _gpus() -> Panels:
    return numbers(
        "GPUs",
        "short",
        _query("max(dreambooth_job_gpus_in_use{CHOSEN})", "in use"),
        _query("max(dreambooth_job_gpus_requested{CHOSEN})", "requested"),
        text="GPUs that its pods hold.",
    )


def _losses() -> Panels:
    return series(
        "Loss",
        "short",
        _query('max(dreambooth_trainer_loss{CHOSEN, rank="0"})', "loss"),
        _query(
            'max(avg_over_time(dreambooth_trainer_loss{CHOSEN, rank="0"}[5m]))', "5 min average"
        ),
        text="Subject loss plus prior loss times its weight. Single steps are noisy: watch the"
        " average.",
    )


def _parts() -> Panels:
    return series(
        "Subject and prior loss",
        "short",
        _query('max(dreambooth_trainer_subject_loss{CHOSEN, rank="0"})', "subject"),
        _query('max(dreambooth_trainer_prior_loss{CHOSEN, rank="0"})', "prior"),
        text="A prior loss that grows while the subject's falls: the model forgets the class. Train"
        " for fewer steps, or raise spec.prior.weight.",
    )


def _rate() -> Panels:
    return series(
        "Learning rate",
        "sci",
        _query('max(dreambooth_trainer_learning_rate{CHOSEN, rank="0"})', "denoiser"),
        text="Of the denoiser, after warm-up and schedule.",
    )


def _scores() -> Panels:
    return series(
        "Scores",
        "short",
        _query(
            'max by (subject, score) (dreambooth_trainer_score{CHOSEN, rank="0"})',
            "{{subject}} {{score}}",
        ),
        text="Of the base model, the evaluations during training (spec.evaluation.every) and the"
        " result. scores.json has their intervals.",
    )


def _best() -> Panels:
    return series(
        "Best checkpoint",
        "short",
        _query('max(dreambooth_trainer_selection_score{CHOSEN, rank="0"})', "newest evaluation"),
        _query('max(dreambooth_trainer_best_score{CHOSEN, rank="0"})', "best so far"),
        text="The score that spec.evaluation.select chooses by. The best checkpoint is the one that"
        " is exported.",
    )


def _validation() -> Panels:
    return series(
        "Validation loss",
        "short",
        _query('max(dreambooth_trainer_validation_loss{CHOSEN, rank="0"})', "validation loss"),
        text="On images that are not trained on. When it rises while the training loss falls, the"
        " model learns the training images by heart.",
    )


def _images() -> Panels:
    return series(
        "Images per second",
        "short",
        _query('max(dreambooth_trainer_images_per_second{CHOSEN, rank="0"})', "all ranks"),
        text="Subject and prior images of all ranks.",
    )


def _step_time() -> Panels:
    steps = "sum(rate(dreambooth_trainer_step_seconds_count{CHOSEN}[$__rate_interval])) > 0"
    spent = "sum(rate(dreambooth_trainer_{}_seconds_sum{{CHOSEN}}[$__rate_interval]))"
    # The wait for data is part of a step, the wait for a checkpoint is not.
    step, data, checkpoint = map(spent.format, ("step", "data_wait", "checkpoint_wait"))
    return series(
        "Step time",
        "s",
        _query(f"({step} - {data}) / ({steps})", "compute"),
        _query(f"{data} / ({steps})", "data"),
        _query(f"{checkpoint} / ({steps})", "checkpoint"),
        text="What the time of an average step is spent on, over all ranks; it waits for data and"
        " checkpoints.",
        stacked=True,
    )


def _memory() -> Panels:
    return series(
        "GPU memory",
        "bytes",
        _query("max(dreambooth_trainer_gpu_memory_allocated_bytes{CHOSEN})", "in use"),
        _query("max(dreambooth_trainer_gpu_memory_peak_bytes{CHOSEN})", "peak"),
        text="Tensors on the rank that uses most. Empty where the job trains on CPUs.",
    )


def _bytes() -> Panels:
    return series(
        "S3 throughput",
        "Bps",
        _query(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_bytes_total{CHOSEN}[$__rate_interval]))",
            "{{operation}}",
        ),
        text="Bytes to and from storage, over all ranks.",
    )


def _requests() -> Panels:
    return series(
        "S3 operations and errors",
        "ops",
        _query(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_count{CHOSEN}[$__rate_interval]))",
            "{{operation}}",
        ),
        _query(
            "sum by (operation, code)"
            " (rate(dreambooth_trainer_s3_errors_total{CHOSEN}[$__rate_interval]))",
            "{{operation}}: {{code}}",
        ),
        text="Errors are retried. NoSuchKey, 404 and 412 are no errors: the trainer asks whether an"
        " object exists.",
    )


def _latency() -> Panels:
    return series(
        "S3 time per operation",
        "s",
        _query(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_sum{CHOSEN}[$__rate_interval]))"
            " / (sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_count{CHOSEN}[$__rate_interval])) > 0)",
            "{{operation}}",
        ),
        text="On average, retries included.",
    )


def _results() -> Panels:
    uri = "^s3://([^/]+)/(.*)$"
    return rows(
        "Results",
        (
            Column("output", "Run"),
            Column("bucket", "Bucket"),
            Column("folder", "Folder", link=SAMPLES, tooltip="Open the samples"),
        ),
        _query(
            # Grafana cannot take a URI apart: Prometheus splits it into bucket and folder.
            "max by (output, bucket, folder) (label_replace(label_replace("
            'dreambooth_job_info{CHOSEN, output!=""}'
            f', "bucket", "$1", "output", "{uri}"), "folder", "$2", "output", "{uri}"))'
        ),
        text="A click on the folder opens the samples in the S3 browser that is set at the top."
        " `dreambooth samples job.yaml` fetches them.",
        height=4,
    )
