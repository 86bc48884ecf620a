"""The end of a run, as the terminal shows it."""

import io
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console

from dreambooth_api.contract.message import Checkpoint
from dreambooth_api.contract.restart import PodEnd
from dreambooth_api.models.job import output_layout
from dreambooth_api.parsing.load import load
from dreambooth_operator.cli.terminal.end import Report
from dreambooth_operator.local.pod import LocalPod
from dreambooth_operator.local.run import RunEnd, RunFailure
from dreambooth_operator.local.state import State
from dreambooth_operator.local.storage import storage_for
from tests.crds.contract.example_scores import example_scores
from tests.operator.cli.bench import Bench


def failed(bench: Bench, exit_code: int, *, final: bool, step: int | None = None) -> str:
    """What a run prints that has failed with a pod's exit code."""
    state = State(bench.state)
    run = state.new_run(load(yaml.safe_dump(bench.job)), embedded=False)
    run.record.attempts = 21
    if step is not None:
        run.record_checkpoint(Checkpoint(step=step, uri="s3://out", time=datetime.now(UTC)))
    log = Path(bench.folder, "pod-0.log")
    log.touch()
    pod = LocalPod(0, "mug-0", "127.0.0.1", [], {}, bench.folder, log, 30)
    output = io.StringIO()
    with storage_for(run.job, state, embedded=False) as storage:
        report = Report(run, storage, "dreambooth run job.yaml --resume", Console(file=output))
        report.print_end(RunEnd(exit_code, RunFailure(pod, PodEnd(0, exit_code), final)), 1.0)
    return output.getvalue()


def test_the_files_of_a_run_are_those_of_the_exported_model(bench: Bench) -> None:
    state = State(bench.state)
    bench.job["spec"]["training"] = {"steps": 40}
    run = state.new_run(load(yaml.safe_dump(bench.job)), embedded=False)
    layout = output_layout(run.job)
    output = io.StringIO()
    with storage_for(run.job, state, embedded=False) as storage:
        for step in (0, 9, 30):
            storage.client.write(layout.grid(step), b"")
        scores = example_scores().model_copy(update={"last_step": 30})
        storage.client.write(layout.scores, scores.encode())
        report = Report(run, storage, "", Console(file=output, soft_wrap=True))
        report.print_end(RunEnd(0), 1.0)
    shown = output.getvalue()
    assert "samples/step-00000009/grid.png\n" in shown
    assert "stopped early at step 30 of 40 (spec.evaluation.earlyStopping)\n" in shown
    assert "step 9 was the best: it is in export/, and step 30 in export-last/\n" in shown


def test_run_that_gave_up_says_which_limit_it_reached(bench: Bench) -> None:
    limit = "gave up after 21 attempts: spec.runtime.restart.maxFailures is 2"
    assert limit in failed(bench, 1, final=False)
    refused = failed(bench, 67, final=False, step=4)
    assert "gave up after 21 attempts: refused 20 times without a newer checkpoint" in refused


def test_run_that_was_refused_is_worth_resuming_only_for_its_checkpoint(bench: Bench) -> None:
    assert "resume" not in failed(bench, 64, final=True)
    resume = "resume from the checkpoint of step 4 with: dreambooth run job.yaml --resume"
    assert resume in failed(bench, 64, final=True, step=4)
