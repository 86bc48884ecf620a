"""The definitions of the operator's metrics: for the code that exposes them, and for their pages.

Nothing is imported here that only a running operator needs.
"""

from typing import Final

from dreambooth_api.contract.metrics import (
    JOB_LABELS,
    JOB_PREFIX,
    OPERATOR_PREFIX,
    Definition,
    MetricKind,
)


def _operator(name: str, kind: MetricKind, meaning: str, *labels: str) -> Definition:
    return Definition(f"{OPERATOR_PREFIX}_{name}", kind, labels, meaning)


def _job(name: str, kind: MetricKind, meaning: str, *labels: str) -> Definition:
    return Definition(f"{JOB_PREFIX}_{name}", kind, (*JOB_LABELS, *labels), meaning)


# About the operator itself. No label names a job or a namespace: these series outlive both.
API_REQUESTS: Final = _operator(
    "api_requests_total", "counter", "Responses of the API server.", "verb", "resource", "code"
)
RECONCILE_ERRORS: Final = _operator(
    "reconcile_errors_total", "counter", "Reconciliations that failed and are retried.", "kind"
)
RECONCILE_SECONDS: Final = _operator(
    "reconcile_seconds", "histogram", "Duration of one reconciliation of a job."
)
RESTARTS: Final = _operator(
    "restarts_total",
    "counter",
    "Attempts after a job's first, by the outcome of the one before.",
    "reason",
)
RESYNC_REPAIRS: Final = _operator(
    "resync_repairs_total", "counter", "Changes that a watch had missed.", "resource"
)
OBJECTS_SKIPPED: Final = _operator(
    "objects_skipped_total", "counter", "Objects passed over as unreadable.", "resource"
)
NAMESPACES_FAILING: Final = _operator(
    "namespaces_failing", "gauge", "Watched namespaces that cannot be listed; the log names them."
)
PROGRESS_FAILURES: Final = _operator(
    "progress_failures_total", "counter", "Progress requests to rank 0 without a usable answer."
)
QUEUE_SECONDS: Final = _operator(
    "queue_seconds", "histogram", "Time from the creation of an attempt's Job to its start."
)
START_SECONDS: Final = _operator(
    "start_seconds", "histogram", "Time from an attempt's start until all ranks have joined."
)
RUN_SECONDS: Final = _operator(
    "run_seconds", "histogram", "Time from all ranks having joined to the attempt's end."
)
LEADER: Final = _operator("leader", "gauge", "1 in the process that leads, 0 in one on standby.")
JOBS: Final = _operator("jobs", "gauge", "DreamBoothJobs by phase.", "phase")
QUEUE_DEPTH: Final = _operator("queue_depth", "gauge", "Jobs that are due to be reconciled.")
QUEUE_OLDEST_SECONDS: Final = _operator(
    "queue_oldest_seconds", "gauge", "How long the first of them has waited."
)
WATCH_AGE_SECONDS: Final = _operator(
    "watch_age_seconds", "gauge", "Time since a watch was last known to work.", "resource"
)
API_ANSWER_AGE_SECONDS: Final = _operator(
    "api_answer_age_seconds", "gauge", "Time since the API server's last response."
)

OPERATOR_METRICS: Final = (
    API_REQUESTS, RECONCILE_ERRORS, RECONCILE_SECONDS, RESTARTS, RESYNC_REPAIRS, OBJECTS_SKIPPED,
    NAMESPACES_FAILING, PROGRESS_FAILURES, QUEUE_SECONDS, START_SECONDS, RUN_SECONDS, LEADER, JOBS,
    QUEUE_DEPTH, QUEUE_OLDEST_SECONDS, WATCH_AGE_SECONDS, API_ANSWER_AGE_SECONDS,
)  # fmt: skip

# About each DreamBoothJob that exists.
JOB_INFO: Final = _job(
    "info", "gauge", "1 for each job: its queue and the folder of its run.", "queue", "output"
)
JOB_PHASE: Final = _job(
    "phase", "gauge", "1 for the phase and stage that the job is in.", "phase", "stage"
)
JOB_PHASE_START: Final = _job(
    "phase_start_timestamp_seconds", "gauge", "Unix time at which the phase began."
)
JOB_GPUS_REQUESTED: Final = _job("gpus_requested", "gauge", "GPUs that the job asks for.")
JOB_GPUS_IN_USE: Final = _job("gpus_in_use", "gauge", "GPUs that its pods hold.")
JOB_STEP: Final = _job("step", "gauge", "Optimizer steps done, as in the job's status.")
JOB_TARGET_STEPS: Final = _job("target_steps", "gauge", "Optimizer steps that the job asks for.")
JOB_CHECKPOINT_STEP: Final = _job(
    "checkpoint_step", "gauge", "Step of the newest durable checkpoint."
)
JOB_CHECKPOINT_TIME: Final = _job(
    "checkpoint_timestamp_seconds", "gauge", "Unix time of the newest durable checkpoint."
)
JOB_ATTEMPT_START: Final = _job(
    "attempt_start_timestamp_seconds",
    "gauge",
    "Unix time at which the newest attempt began.",
    "attempt",
)
JOB_ATTEMPT_END: Final = _job(
    "attempt_end_timestamp_seconds",
    "gauge",
    "Unix time at which the last attempt to end did so, its outcome, and the exit code of the"
    " rank that failed first.",
    "attempt", "outcome", "exit_code",
)  # fmt: skip
JOB_INTERRUPTIONS: Final = _job(
    "interruptions_total",
    "counter",
    "Attempts that failed, stalled, were disrupted or preempted.",
    "reason",
)

JOB_METRICS: Final = (
    JOB_INFO, JOB_PHASE, JOB_PHASE_START, JOB_GPUS_REQUESTED, JOB_GPUS_IN_USE, JOB_STEP,
    JOB_TARGET_STEPS, JOB_CHECKPOINT_STEP, JOB_CHECKPOINT_TIME, JOB_ATTEMPT_START, JOB_ATTEMPT_END,
    JOB_INTERRUPTIONS,
)  # fmt: skip
