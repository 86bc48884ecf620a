"""The dashboard of one job.

Rank 0 reports losses and speed for all ranks. The pods of an attempt come and go, so their series
are aggregated by job.
"""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

from dreambooth_charts import variables
from dreambooth_charts.annotations import Marks
from dreambooth_charts.panels import Column, Panels, Query, numbers, rows, series, words

UID = "dreambooth-job"
CHOSEN = 'namespace="$namespace", job="$job"'
SAMPLES = "${browser:raw}${__data.fields.Bucket}?prefix=${__data.fields.Folder}/samples/"


def job_dashboard() -> Dashboard:
    """One job: how far it is, how it learns, and where its time goes."""
    made = (
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
        .annotations([_began(), _ended()])
    )
    for row, panels in (
        ("State", (_phase(), _progress(), _left(), _attempt(), _unsaved(), _gpus())),
        ("Learning", (_losses(), _parts(), _rate())),
        ("Speed", (_images(), _step_time(), _memory())),
        ("Storage", (_bytes(), _requests(), _latency())),
        ("Results", (_results(),)),
    ):
        made.with_row(Row(row))
        for panel in panels:
            made.with_panel(panel)
    return made


def _ask(expr: str, legend: str = "") -> Query:
    """A query about the chosen job: `{CHOSEN}` in it are its labels."""
    return Query(expr.replace("CHOSEN", CHOSEN), legend)


def _began() -> Marks:
    return Marks(
        "Attempts",
        _ask("max by (attempt) (dreambooth_job_attempt_start_timestamp_seconds{CHOSEN}) * 1000"),
        title="Attempt {{attempt}} began",
        color="blue",
    )


def _ended() -> Marks:
    return Marks(
        "Ends",
        _ask(
            "max by (attempt, outcome, exit_code)"
            " (dreambooth_job_attempt_end_timestamp_seconds{CHOSEN}) * 1000"
        ),
        title="Attempt {{attempt}}: {{outcome}}",
        color="orange",
        text="exit code {{exit_code}}",
    )


def _phase() -> Panels:
    return words(
        "Phase",
        _ask("max by (phase, stage) (dreambooth_job_phase{CHOSEN})", "{{phase}} {{stage}}"),
        text="What `kubectl get dbj` shows.",
    )


def _progress() -> Panels:
    return numbers(
        "Done",
        "percentunit",
        _ask("max(dreambooth_job_step{CHOSEN} / (dreambooth_job_target_steps{CHOSEN} > 0))"),
        text="Part of the optimizer steps that are done.",
    )


def _left() -> Panels:
    return numbers(
        "Training left",
        "s",
        _ask(
            "max(dreambooth_trainer_target_steps{CHOSEN} - dreambooth_trainer_step{CHOSEN})"
            " * avg(rate(dreambooth_trainer_step_seconds_sum{CHOSEN}[$__rate_interval])"
            " / (rate(dreambooth_trainer_step_seconds_count{CHOSEN}[$__rate_interval]) > 0))"
        ),
        text="At the present speed, without checkpoints and samples.",
    )


def _attempt() -> Panels:
    return words(
        "Attempt",
        _ask(
            "topk(1, max by (attempt) (dreambooth_job_attempt_start_timestamp_seconds{CHOSEN}))",
            "{{attempt}}",
        ),
        text="The newest attempt, from 0. More than 0: the job was started again.",
    )


def _unsaved() -> Panels:
    return numbers(
        "Not saved for",
        "s",
        _ask('time() - max(dreambooth_trainer_unsaved_since_timestamp_seconds{CHOSEN, rank="0"})'),
        text="Work that is lost when a node goes.",
    )


def _gpus() -> Panels:
    return numbers(
        "GPUs",
        "short",
        _ask("max(dreambooth_job_gpus_in_use{CHOSEN})", "in use"),
        _ask("max(dreambooth_job_gpus_requested{CHOSEN})", "asked for"),
        text="GPUs that its pods hold.",
    )


def _losses() -> Panels:
    return series(
        "Loss",
        "short",
        _ask('max(dreambooth_trainer_loss{CHOSEN, rank="0"})', "loss"),
        _ask('max(avg_over_time(dreambooth_trainer_loss{CHOSEN, rank="0"}[5m]))', "5 min average"),
        text="Subject loss plus prior loss times its weight. One step is noisy by nature: look at"
        " the average.",
    )


def _parts() -> Panels:
    return series(
        "Subject and prior loss",
        "short",
        _ask('max(dreambooth_trainer_subject_loss{CHOSEN, rank="0"})', "subject"),
        _ask('max(dreambooth_trainer_prior_loss{CHOSEN, rank="0"})', "prior"),
        text="A prior loss that grows while the subject's falls: the model forgets the class. Train"
        " for fewer steps, or raise spec.prior.weight.",
    )


def _rate() -> Panels:
    return series(
        "Learning rate",
        "sci",
        _ask('max(dreambooth_trainer_learning_rate{CHOSEN, rank="0"})', "denoiser"),
        text="Of the denoiser, as warm-up and schedule make it.",
    )


def _images() -> Panels:
    return series(
        "Images per second",
        "short",
        _ask('max(dreambooth_trainer_images_per_second{CHOSEN, rank="0"})', "all ranks"),
        text="Subject and prior images of all ranks.",
    )


def _step_time() -> Panels:
    steps = "sum(rate(dreambooth_trainer_step_seconds_count{CHOSEN}[$__rate_interval])) > 0"
    spent = "sum(rate(dreambooth_trainer_{}_seconds_sum{{CHOSEN}}[$__rate_interval]))"
    step, data, checkpoint = map(spent.format, ("step", "data_wait", "checkpoint_wait"))
    return series(
        "Step time",
        "s",
        _ask(f"({step} - {data}) / ({steps})", "compute"),
        _ask(f"{data} / ({steps})", "data"),
        _ask(f"{checkpoint} / ({steps})", "checkpoint"),
        text="Where the time of an average step goes, over all ranks: data and checkpoints are what"
        " it waits for.",
        stacked=True,
    )


def _memory() -> Panels:
    return series(
        "GPU memory",
        "bytes",
        _ask("max(dreambooth_trainer_gpu_memory_allocated_bytes{CHOSEN})", "in use"),
        _ask("max(dreambooth_trainer_gpu_memory_peak_bytes{CHOSEN})", "peak"),
        text="Of the rank that uses most, by tensors alone. Empty where the job trains on CPUs.",
    )


def _bytes() -> Panels:
    return series(
        "S3 throughput",
        "Bps",
        _ask(
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
        _ask(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_count{CHOSEN}[$__rate_interval]))",
            "{{operation}}",
        ),
        _ask(
            "sum by (operation, code)"
            " (rate(dreambooth_trainer_s3_errors_total{CHOSEN}[$__rate_interval]))",
            "{{operation}}: {{code}}",
        ),
        text="Errors are tried again. NoSuchKey, 404 and 412 are answers to whether something is"
        " there.",
    )


def _latency() -> Panels:
    return series(
        "S3 time per operation",
        "s",
        _ask(
            "sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_sum{CHOSEN}[$__rate_interval]))"
            " / (sum by (operation)"
            " (rate(dreambooth_trainer_s3_request_seconds_count{CHOSEN}[$__rate_interval])) > 0)",
            "{{operation}}",
        ),
        text="On average, retries included.",
    )


def _results() -> Panels:
    place = "^s3://([^/]+)/(.*)$"
    return rows(
        "Results",
        (
            Column("output", "Run"),
            Column("bucket", "Bucket"),
            Column("folder", "Folder", link=SAMPLES, tooltip="Look at the samples"),
        ),
        _ask(
            "max by (output, bucket, folder) (label_replace(label_replace("
            'dreambooth_job_info{CHOSEN, output!=""}'
            f', "bucket", "$1", "output", "{place}"), "folder", "$2", "output", "{place}"))'
        ),
        text="A click on the folder opens the samples in the S3 browser that is named at the top."
        " `dreambooth samples job.yaml` fetches them.",
        height=4,
    )
