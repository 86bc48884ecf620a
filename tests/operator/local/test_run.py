"""A local run restarts by the policy of the cluster."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.progress import Progress
from dreambooth_api.contract.restart import MAX_REFUSALS, PodEnd
from dreambooth_api.contract.stages import Outcome
from dreambooth_api.contract.termination import Termination
from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.local import run as local_run
from dreambooth_operator.local.run import RunEnd, run_job
from dreambooth_operator.local.runner import StopRequest
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import storage_for
from tests.operator.restarts import BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, WAITS

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"
SAVED = datetime(2026, 1, 1, tzinfo=UTC)
EXIT_CODES: dict[Outcome, int] = {"Failed": 1, "Stalled": 70, "Disrupted": 143, "Succeeded": 0}


class Lines:
    """A screen that keeps the lines it is given."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print_line(self, text: str) -> None:
        self.lines.append(text)

    def attempt_started(self, attempt: int) -> None:
        pass

    def update(self, progress: Progress | None, problem: str | None, stopping: bool) -> None:
        pass

    def close(self) -> None:
        pass


class Runs:
    """Runs whose pods end as a test says, and whose waits are recorded in place of waited."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.screen = Lines()
        self.waits: list[float] = []
        self.message = ""
        """Termination message of each pod."""
        self.steps: Iterator[int | None] = itertools.repeat(None)
        """Step of the checkpoint that each attempt ends with."""
        self.folder = folder
        self._codes: Iterator[int] = iter(())
        monkeypatch.setattr(local_run, "run_pods", self._run_pods)
        monkeypatch.setattr(local_run, "_wait", self._wait)

    def run(self, codes: Sequence[int], max_failures: int = 100) -> RunEnd:
        """Run a job whose attempts end with these exit codes, then with 0."""
        document = yaml.safe_load(QUICKSTART.read_text())
        document["spec"]["runtime"]["restart"] = {
            "maxFailures": max_failures,
            "backoffSeconds": BACKOFF_SECONDS,
            "maxBackoffSeconds": MAX_BACKOFF_SECONDS,
        }
        document["spec"]["runtime"] |= {"nodes": 1, "gpusPerNode": 0}
        state = State(self.folder)
        run = state.new_run(DreamBoothJob.model_validate(document), embedded=False)
        self._codes = itertools.chain(codes, itertools.repeat(0))
        with storage_for(run.job, state, embedded=False) as storage:
            return run_job(run, storage, StopRequest(), self.screen)

    def _run_pods(self, pods: Any, stop: StopRequest, on_tick: Any) -> list[PodEnd]:
        step = next(self.steps)
        saved = None if step is None else Checkpoint(step=step, uri="s3://b/c", time=SAVED)
        return [PodEnd(0, next(self._codes), Termination(message=self.message, checkpoint=saved))]

    def _wait(self, seconds: float, stop: StopRequest) -> bool:
        self.waits.append(seconds)
        return True


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.parametrize(("outcomes", "seconds"), [case for case in WAITS if len(case[0]) < 100])
def test_local_run_waits_as_the_policy_says(
    runs: Runs, outcomes: list[Outcome], seconds: int
) -> None:
    assert runs.run([EXIT_CODES[outcome] for outcome in outcomes]) == RunEnd(0)
    assert len(runs.waits) == len(outcomes)
    assert runs.waits[-1] == seconds


def test_only_failures_and_stalls_use_up_the_budget(runs: Runs) -> None:
    end = runs.run([1, 143, 143, 143, 70, 143, 1], max_failures=2)
    assert end.exit_code == 1
    assert end.failure is not None
    assert not end.failure.final
    assert runs.screen.lines == [
        f"pod 0 exited with code {code} ({reason}); restarting in {seconds} s from the beginning"
        for code, reason, seconds in [
            (1, "failure 1 of 2 allowed", 10),
            *[(143, "disrupted", seconds) for seconds in (10, 20, 40)],
            (70, "failure 2 of 2 allowed", 10),
            (143, "disrupted", 10),
        ]
    ]


def test_reason_of_a_failure_is_shown_while_it_is_retried(runs: Runs) -> None:
    runs.message = "the hub cannot be reached"
    runs.run([1, 143])
    failed, stopped = runs.screen.lines
    assert failed.endswith("from the beginning: the hub cannot be reached")
    assert stopped.endswith("from the beginning")


def test_run_that_never_started_does_not_hide_an_earlier_one(runs: Runs) -> None:
    runs.run([])
    state = State(runs.folder)
    (started,) = state.runs()
    state.new_run(started.job, embedded=False)
    latest = state.latest_run(started.job.metadata.name)
    assert latest is not None
    assert latest.job.metadata.uid == started.job.metadata.uid


def test_failure_that_no_restart_helps_ends_the_run(runs: Runs) -> None:
    end = runs.run([143, 66])
    assert end.failure is not None
    assert (end.exit_code, end.failure.final) == (66, True)


def test_a_newer_checkpoint_shortens_the_wait_after_a_disruption(runs: Runs) -> None:
    runs.steps = iter([None, None, 10, 10, 20, None])
    runs.run([143] * 5)
    assert runs.waits == [10, 20, 10, 20, 10]


def test_refusals_from_one_checkpoint_are_limited(runs: Runs) -> None:
    # The attempt that saves step 20 shows that the training gets on.
    before, after = MAX_REFUSALS - 1, MAX_REFUSALS
    runs.steps = itertools.chain([10] * before, [20] * after)
    end = runs.run([67] * (before + after), max_failures=0)
    assert end.failure is not None
    assert (end.exit_code, end.failure.final) == (67, False)
    assert len(runs.waits) == before + after - 1
