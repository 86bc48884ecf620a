"""A job's life on this machine: attempt after attempt until it has ended."""

import time
from dataclasses import dataclass

from dreambooth_api.contract.environment import DEFAULT_METRICS_PORT
from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.models.runtime import Restart
from dreambooth_operator.cli.screen import Screen
from dreambooth_operator.local.machine import Machine, survey, threads_per_process
from dreambooth_operator.local.outcome import PodEnd, Verdict, backoff_seconds, judge
from dreambooth_operator.local.pod import LocalPod, NodeEnvironment, local_pods
from dreambooth_operator.local.progress import ProgressWatch
from dreambooth_operator.local.runner import StopRequest, run_pods
from dreambooth_operator.local.state import Run
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_operator.manifests.resources import attempt_objects
from dreambooth_operator.manifests.serialize import to_yaml

LOCAL_IMAGE = "this-machine"
"""The pods' image; processes have none."""
FAILURE_LOG_LINES = 15


@dataclass(frozen=True)
class Failure:
    """Why a run failed, for the user."""

    pod: LocalPod
    end: PodEnd
    retryable: bool
    """The restart budget ended it, not the kind of failure."""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended."""

    exit_code: int
    failure: Failure | None = None


@dataclass
class Budget:
    """What is left of the restart budget. Failures and stalls cost; disruptions only wait."""

    policy: Restart
    failures: int = 0
    in_a_row: int = 0

    def spend(self, verdict: Verdict) -> bool:
        """Count the end of an attempt; False when there is to be no other."""
        self.in_a_row += 1
        self.failures += verdict.outcome in ("Failed", "Stalled")
        return verdict.retryable and self.failures <= self.policy.max_failures

    @property
    def wait_seconds(self) -> int:
        """Wait before the next attempt."""
        return backoff_seconds(self.policy, self.in_a_row)


def run_job(run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen) -> RunEnd:
    """Run attempts until the job has succeeded, failed for good or was asked to stop."""
    end = _run_attempts(run, storage, stop, screen)
    stopped = end.exit_code and stop.requested
    run.record.state = "Stopped" if stopped else "Failed" if end.exit_code else "Succeeded"
    run.save()
    return end


def _run_attempts(run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen) -> RunEnd:
    budget = Budget(storage.job.spec.runtime.restart)
    while True:
        pods, ends = _run_attempt(run, storage, stop, screen)
        verdict = judge(ends)
        culprit = verdict.culprit
        if culprit is None:
            return RunEnd(0)
        if stop.requested:
            return RunEnd(culprit.exit_code)
        if not budget.spend(verdict):
            return RunEnd(
                culprit.exit_code, Failure(pods[culprit.index], culprit, verdict.retryable)
            )
        screen.say(_restart_notice(culprit, verdict, budget))
        if not _wait(budget.wait_seconds, stop):
            return RunEnd(ExitCode.STOPPED)


def _run_attempt(
    run: Run, storage: LocalStorage, stop: StopRequest, screen: Screen
) -> tuple[list[LocalPod], list[PodEnd]]:
    attempt = run.record.attempts
    run.record.attempts += 1
    run.record.state = "Running"
    run.save()
    objects = attempt_objects(storage.job, attempt, LOCAL_IMAGE)
    (run.folder / f"attempt-{attempt}.yaml").write_text(to_yaml(objects))
    machine = survey(storage.job, seed=f"{storage.job.metadata.uid}-{attempt}")
    pods = local_pods(objects, _setting(run, machine, storage))
    screen.attempt_started(attempt)
    with ProgressWatch(machine.addresses[0], DEFAULT_METRICS_PORT) as watch:
        ends = run_pods(pods, stop, on_tick=lambda: screen.update(watch.latest, stop.requested))
    return pods, ends


def _setting(run: Run, machine: Machine, storage: LocalStorage) -> NodeEnvironment:
    """What the pods share. Loopback alone: nothing of a local run is to be seen outside."""
    threads = {"OMP_NUM_THREADS": str(threads_per_process(machine, storage.job))}
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    return NodeEnvironment(
        folder=run.folder,
        addresses=machine.addresses,
        rendezvous_port=machine.rendezvous_port,
        environment=threads | loopback | storage.environment,
        devices=_devices(storage.job, machine),
    )


def _devices(job: DreamBoothJob, machine: Machine) -> tuple[str, ...]:
    """Every pod gets GPUs of its own, as a node has; none without `gpusPerNode`."""
    count = job.spec.runtime.gpus_per_node
    return tuple(
        ",".join(machine.gpus[index * count : (index + 1) * count])
        for index in range(job.spec.runtime.nodes)
    )


def _restart_notice(culprit: PodEnd, verdict: Verdict, budget: Budget) -> str:
    forgiven = f"failure {budget.failures} of {budget.policy.max_failures} that are forgiven"
    kind = "disrupted" if verdict.outcome == "Disrupted" else forgiven
    return (
        f"pod {culprit.index} ended with exit code {culprit.exit_code} ({kind});"
        f" the next attempt starts in {budget.wait_seconds} s from the last checkpoint"
    )


def _wait(seconds: float, stop: StopRequest) -> bool:
    """Wait; False when asked to stop meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop.requested:
        time.sleep(0.1)
    return not stop.requested
