"""Starting an attempt: when, on which nodes, and never two at a time (spec.runtime.restart)."""

import copy
from datetime import timedelta

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.restart import EndedAttempt, outcome_for_backoff
from dreambooth_api.contract.times import rfc3339
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.status import AttemptStatus, Counters, Status
from dreambooth_operator.controller.decide.deadlines import is_lost
from dreambooth_operator.controller.decide.pod_start import not_ready_reason
from dreambooth_operator.controller.decide.state.builder import DecisionBuilder
from dreambooth_operator.controller.decide.state.conditions import find_condition
from dreambooth_operator.controller.decide.state.history import (
    newest_attempt,
    open_attempt,
    unreliable_nodes,
)
from dreambooth_operator.controller.decide.suspend import queue_name
from dreambooth_operator.controller.kube.job_snapshots import COUNTERS_ANNOTATION
from dreambooth_operator.manifests.names import TRAINER, Manifest
from dreambooth_operator.manifests.resources import attempt_objects

# Finished Jobs keep their pods, which the API server stores: a job can have a hundred attempts.
KEPT_JOBS = 3
"""Jobs of the newest attempts are kept, with the logs of the pods that failed."""
# A preference and not a requirement: in a small cluster the same node may be the only one.
AVOID_WEIGHT = 100
"""The highest weight: another node is taken where there is one, otherwise the same one again."""


def start_next_attempt(builder: DecisionBuilder) -> None:
    """Start the next attempt when it is due (spec.runtime.restart) and no earlier one is left.

    Two attempts at a time would write to the same output and hold twice the GPUs.
    """
    record = newest_attempt(builder.status)
    number = 0 if record is None else record.number + 1
    if record != newest_attempt(builder.job.status or Status()):
        builder.set_phase("Restarting")  # the end of the last one is written first
        return
    # A Job without a record, or one that the status was edited to hide.
    if live := [job for job in builder.observed.attempts if job.live]:
        for job in live:
            builder.delete(job)
        return
    if _pods_are_left(builder):
        builder.set_phase("Restarting" if record else "Pending")
    elif record is not None and (wait := _seconds_left(builder, record)) > 0:
        builder.set_phase("Restarting")
        builder.requeue_after(wait)
    else:
        _start(builder, number)


def _pods_are_left(builder: DecisionBuilder) -> bool:
    """Whether pods run whose Job is gone: they would be taken for ranks of the next attempt.

    It was deleted in the background, without its pods, or with an earlier DreamBoothJob of the
    same name. They are waited for until spec.runtime.terminatingTimeoutSeconds is over: nobody may
    ever ask them to stop.
    """
    known = {job.uid for job in builder.observed.attempts}
    left = [
        pod
        for pod in builder.observed.pods
        if pod.component == TRAINER
        and pod.job_uid not in known
        and not pod.ended
        and not is_lost(builder, pod)
    ]
    if not left:
        return False
    condition = find_condition(builder.status.conditions, ConditionType.PODS_READY)
    waiting = condition is not None and condition.reason == Reason.PODS_LEFT
    since = condition.last_transition_time if condition and waiting else builder.now
    until = since + timedelta(seconds=builder.runtime.terminating_timeout_seconds)
    seconds = (until - builder.now).total_seconds()
    # Its commits are rejected, as those of a pod on a lost node.
    if seconds <= 0:
        return False
    builder.requeue_after(seconds)
    message = (
        f"waiting for pod {left[0].name} of an earlier Job to end; the next attempt starts without"
        f" it at {rfc3339(until)}"
    )
    builder.set_condition(ConditionType.PODS_READY, "False", Reason.PODS_LEFT, message)
    return True


def _seconds_left(builder: DecisionBuilder, record: AttemptStatus) -> float:
    """Seconds until the attempt after `record`; 0 when it is due.

    An end in the future, which only a status edited by hand has, delays nothing.
    """
    if record.ended is None:
        return 0
    # An attempt that could not start waits as long as one that failed: 10 s, 20 s and so on.
    attempts = [
        EndedAttempt(
            "Failed"
            if each.outcome == "Disrupted" and each.running is None
            else outcome_for_backoff(each.outcome, each.exit_code),
            each.checkpoint_step,
        )
        for each in builder.status.attempts
    ]
    due = builder.runtime.restart.policy().restart_time(attempts, record.ended)
    return (due - builder.now).total_seconds() if record.ended <= builder.now else 0


def _start(builder: DecisionBuilder, number: int) -> None:
    # Written to the Job, too: `_recover_counters` restores them if the status is lost.
    counters = builder.status.counters or Counters()
    avoid = unreliable_nodes(builder.status.attempts)
    builder.apply(
        attempt_children(
            builder.job,
            number,
            builder.policy.default_image,
            counters=counters,
            avoid=avoid,
            preflight=builder.runtime.preflight.run_in == "FirstPod"
            and builder.condition_status(ConditionType.PREFLIGHT_PASSED) != "True",
        )
    )
    for job in builder.observed.attempts:
        if job.attempt is not None and job.attempt <= number - KEPT_JOBS:
            builder.delete(job)
    builder.status = open_attempt(builder.status, number, builder.now)
    if builder.runtime.queue:
        builder.remove_conditions(ConditionType.PODS_READY)
        message = f"{queue_name(builder.runtime.queue)} holds the pods back"
        builder.set_condition(ConditionType.QUEUED, "True", Reason.WAITING, message)
        builder.set_phase("Queued")
    else:
        reason = not_ready_reason([], builder.runtime.nodes)
        builder.set_condition(ConditionType.PODS_READY, "False", *reason)
        builder.set_phase("Starting")


def attempt_children(
    job: DreamBoothJob,
    number: int,
    default_image: str,
    *,
    counters: Counters,
    avoid: list[str],
    preflight: bool = False,
) -> list[Manifest]:
    """Service, ConfigMap and Job of an attempt, in the order of creation.

    Args:
        job: The DreamBoothJob, with the operator's defaults.
        number: Number of the attempt, from 0.
        default_image: Trainer image, unless the job names one.
        counters: Annotated on the Job, so that they survive a status that is lost.
        avoid: Names of nodes on which earlier attempts ended.
        preflight: Whether the first pod checks the job before it trains.
    """
    # Service and ConfigMap first: a pod that starts before them waits for its volume and its name.
    *shared, manifest = attempt_objects(job, number, default_image, preflight=preflight)
    manifest = copy.deepcopy(manifest)  # it shares parts with the job
    annotations = manifest["metadata"].setdefault("annotations", {})
    annotations[COUNTERS_ANNOTATION] = counters.model_dump_json()
    if avoid:
        _avoid_nodes(manifest["spec"]["template"]["spec"], avoid)
    return [*shared, manifest]


def _avoid_nodes(pod_spec: Manifest, nodes: list[str]) -> None:
    """Add a preference for all other nodes (core/v1 NodeAffinity)."""
    affinity = pod_spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    preferred = affinity.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
    # matchFields takes one value for each expression.
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in nodes]
    preferred.append({"weight": AVOID_WEIGHT, "preference": {"matchFields": others}})
