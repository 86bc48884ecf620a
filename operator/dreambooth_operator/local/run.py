"""A job's life on this machine: attempt after attempt until it has ended."""

import time
from dataclasses import dataclass
from pathlib import Path

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.restart import (
    MAX_REFUSALS,
    EndedAttempt,
    PodEnd,
    RestartPolicy,
    classify,
    is_refusal,
    outcome_for_backoff,
)
from dreambooth_api.contract.stages import Outcome
from dreambooth_operator.local import host
from dreambooth_operator.local.kubelet import NodeEnvironment, local_pods
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.progress import ProgressReader
from dreambooth_operator.local.runner import StopRequest, run_pods
from dreambooth_operator.local.screen import Screen
from dreambooth_operator.local.state import Run
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_operator.manifests.resources import attempt_objects
from dreambooth_operator.manifests.serialize import to_yaml

LOCAL_IMAGE = "this-machine"
"""The pods' image in the manifests that are kept for the user; processes have none."""


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed: the pod that ended its last attempt."""

    pod: LocalPod
    end: PodEnd
    final: bool
    """No restart can help. False: the job was restarted as often as it may be."""

    @property
    def reason(self) -> str:
        """Why the pod failed, in words."""
        return self.end.termination.message or f"exited with code {self.end.exit_code}"


@dataclass(frozen=True)
class RunEnd:
    """How a run ended."""

    exit_code: int
    """0, or that of the pod that ended the last attempt."""
    failure: RunFailure | None = None
    """None: the run succeeded, or was asked to stop."""


def run_job(run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen) -> RunEnd:
    """Run attempts until the job has succeeded, failed for good or was asked to stop.

    Raises:
        UserError: This machine has no loopback addresses for the pods.
    """
    began = time.monotonic()
    end = _run_attempts(run, storage, stop, screen)
    stopped = end.exit_code and stop.requested
    run.record.seconds += time.monotonic() - began
    run.record.failure = end.failure.reason if end.failure else ""
    run.record.state = "Stopped" if stopped else "Failed" if end.exit_code else "Succeeded"
    run.save()
    return end


def _run_attempts(run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen) -> RunEnd:
    policy = storage.job.spec.runtime.restart.policy()
    outcomes: list[Outcome] = []
    ended: list[EndedAttempt] = []
    checkpoint_step: int | None = None
    refusals = 0
    while True:
        pods, ends = _run_attempt(run, storage, stop, screen)
        saved = _checkpoint_step(ends)
        if saved is not None and (checkpoint_step is None or saved > checkpoint_step):
            checkpoint_step, refusals = saved, 0
        attempt = classify(ends, has_checkpoint=checkpoint_step is not None)
        if attempt is None or attempt.pod is None:  # every pod has exited with 0
            return RunEnd(ExitCode.DONE)
        exit_code = attempt.pod.exit_code or ExitCode.ERROR
        if stop.requested:
            return RunEnd(exit_code)
        outcomes.append(attempt.outcome)
        backoff_outcome = outcome_for_backoff(attempt.outcome, exit_code)
        ended.append(EndedAttempt(backoff_outcome, checkpoint_step))
        refusals += is_refusal(attempt.outcome, exit_code)
        exhausted = policy.is_exhausted(*_counted(outcomes)) or refusals >= MAX_REFUSALS
        if attempt.final or exhausted:
            failure = RunFailure(pods[attempt.pod.index], attempt.pod, attempt.final)
            return RunEnd(exit_code, failure)
        seconds = policy.wait_seconds(ended)
        restart = f"restarting in {seconds} s {run.resume_point}"
        screen.print_line(_restart_notice(attempt.pod, outcomes, policy, restart))
        if not _wait(seconds, stop):
            return RunEnd(ExitCode.STOPPED)


def _run_attempt(
    run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen
) -> tuple[list[LocalPod], list[PodEnd]]:
    """Run one attempt; returns its pods, and how they ended in the order in which they did."""
    attempt = run.record.attempts
    objects = attempt_objects(storage.job, attempt, LOCAL_IMAGE)
    # First what this machine may refuse, such as a port in use: nothing has run then.
    node = node_environment(run.folder, attempt, storage)
    pods = local_pods(objects, node)
    # Before anything runs: a number is never used twice, as checkpoints are fenced by it.
    run.record.attempts += 1
    run.record.state = "Running"
    run.save()
    # Not read again: for the user, who can compare it with what the operator would create.
    (run.folder / f"attempt-{attempt}.yaml").write_text(to_yaml(objects))
    screen.attempt_started(attempt)
    with ProgressReader(node.addresses[0], node.metrics_port) as reader:

        def update() -> None:
            progress = reader.latest
            run.record_checkpoint(progress.last_checkpoint if progress else None)
            screen.update(progress, reader.problem, stop.requested)

        ends = run_pods(pods, stop, update)
    for end in ends:
        run.record_checkpoint(end.termination.checkpoint)
    return pods, ends


def node_environment(folder: Path, attempt: int, storage: LocalStorage) -> NodeEnvironment:
    """What the pods share. They use loopback alone: a local run is invisible from outside."""
    runtime = storage.job.spec.runtime
    # First, so that what the user has set counts.
    threads = {"OMP_NUM_THREADS": str(host.threads_per_rank(runtime))}
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    seed = f"{storage.job.metadata.uid}-{attempt}"
    addresses = host.loopback_addresses(runtime.nodes, seed)
    return NodeEnvironment(
        folder=folder,
        addresses=addresses,
        rendezvous_port=host.rendezvous_port(runtime),
        metrics_port=host.metrics_port(runtime, addresses),
        environment=threads | loopback | storage.environment,
        devices=host.devices_per_pod(runtime),
    )


def _checkpoint_step(ends: list[PodEnd]) -> int | None:
    """Step of the newest checkpoint that the pods know of; None before the first."""
    saved = [end.termination.checkpoint for end in ends]
    return max((checkpoint.step for checkpoint in saved if checkpoint), default=None)


def _counted(outcomes: list[Outcome]) -> tuple[int, int]:
    """(failures, stalls) among the outcomes: only these use up the restart budget."""
    return outcomes.count("Failed"), outcomes.count("Stalled")


def _restart_notice(
    pod: PodEnd, outcomes: list[Outcome], policy: RestartPolicy, restart: str
) -> str:
    budget = f"failure {sum(_counted(outcomes))} of {policy.max_failures} allowed"
    failed = outcomes[-1] in ("Failed", "Stalled")
    reason = budget if failed else "disrupted"
    notice = f"pod {pod.index} exited with code {pod.exit_code} ({reason}); {restart}"
    # What the user can put right in the meantime.
    explained = pod.termination.message and (failed or pod.exit_code in NOT_RETRYABLE)
    return f"{notice}: {pod.termination.message}" if explained else notice


def _wait(seconds: float, stop: StopRequest) -> bool:
    """Wait; returns False as soon as the user asks to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.requested:
        # Signals only count: the time until a stop is noticed is at most this.
        time.sleep(0.1)
    return not stop.requested
