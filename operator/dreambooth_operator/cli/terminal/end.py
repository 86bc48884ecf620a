"""What the terminal shows at the end of a run: the results, or why there are none."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dreambooth_api.contract.exit_codes import EXTERNAL
from dreambooth_api.contract.layout import OutputLayout
from dreambooth_api.contract.restart import MAX_REFUSALS
from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.contract.times import human_duration
from dreambooth_api.models.job import output_layout
from dreambooth_operator.cli.results import LocalResults, fetch, is_result, is_summary
from dreambooth_operator.cli.terminal.program import command_line
from dreambooth_operator.cli.terminal.scores import score_tables
from dreambooth_operator.local.run import RunEnd, RunFailure
from dreambooth_operator.local.state import Run
from dreambooth_operator.local.storage import LocalStorage
from dreambooth_storage import StorageError

FAILURE_LOG_LINES = 15


@dataclass(frozen=True)
class Report:
    """Prints how a run ended."""

    run: Run
    storage: LocalStorage
    resume_command: str
    """The command line that resumes the run, quoted for a shell."""
    console: Console

    def print_end(self, end: RunEnd, seconds: float) -> None:
        """Print the results of a run of so many seconds, why it failed, or how to resume it."""
        if end.failure:
            self._print_failure(end.failure)
        elif end.exit_code:
            self._print_stop(end.exit_code)
        else:
            print_text(self.console, f"succeeded in {human_duration(seconds)}", style="bold green")
            self._print_results()

    def _print_results(self) -> None:
        """Where the result is, and how good it is.

        All but the checkpoints is copied out of the embedded storage, which stops with the run.
        """
        layout = output_layout(self.run.job)
        # The user's own storage keeps the results: a model of gigabytes is not copied unasked.
        select = is_result if self.storage.embedded else is_summary
        try:
            results = fetch(self.storage.client, layout, self.run.results, select)
        except StorageError as error:  # the job has succeeded all the same
            print_entry(self.console, "result", f"{layout.root}/ (cannot be fetched: {error})")
            return
        print_entry(self.console, "result", f"{layout.root}/")
        self._print_files(results, layout)

    def _print_files(self, results: LocalResults, layout: OutputLayout) -> None:
        scores, problem = None, ""
        try:
            scores = results.scores
        except UnreadableScoresError as error:  # the job has succeeded all the same
            problem = str(error)
        files = {
            "model": results.export or layout.export.removeprefix("file://"),
            "samples": results.grid(scores.exported_step if scores else None),
            "before/after": results.before_after,
            "report": results.report,
        }
        for name, path in files.items():
            if path:
                print_entry(self.console, name, path)
        if problem:
            print_entry(self.console, "scores", f"cannot be read: {problem}")
        if scores:
            self._print_scores(scores)

    def _print_scores(self, scores: Scores) -> None:
        for sentence in _choice(scores, self.run.job.spec.training.steps):
            print_entry(self.console, "steps", sentence)
        for table in score_tables(scores):
            self.console.print(table)

    def _print_stop(self, exit_code: int) -> None:
        checkpoint = self.run.record.checkpoint
        saved = f"saved up to step {checkpoint.step}" if checkpoint else "no checkpoint was saved"
        print_text(self.console, f"stopped (exit code {exit_code}): {saved}", style="bold")
        self._print_resume_command()

    def _print_resume_command(self) -> None:
        print_text(self.console, f"resume {self.run.resume_point} with: {self.resume_command}")

    def _print_failure(self, failure: RunFailure) -> None:
        """Which pod failed, why, what to do, and where the logs are."""
        end, runtime = failure.end, self.run.job.spec.runtime
        rank = "" if end.termination.rank is None else f" (rank {end.termination.rank})"
        title = f"FAILED: pod {end.index} of {runtime.nodes}{rank} exited with code {end.exit_code}"
        print_text(self.console, title, style="bold red")
        message = end.termination.message.splitlines()
        self._print_indented(message)
        # Rank and launcher log the message as well.
        repeated = tuple(line for line in message if line.strip())
        lines = [
            line
            for line in failure.pod.last_lines(FAILURE_LOG_LINES)
            if not line.endswith(repeated)
        ]
        print_text(self.console, f"last lines of {failure.pod.log}:")
        self._print_indented(lines, style="dim")
        if not failure.final:
            limit = (
                f"refused {MAX_REFUSALS} times without a newer checkpoint"
                if end.exit_code in EXTERNAL
                else f"spec.runtime.restart.maxFailures is {runtime.restart.max_failures}"
            )
            attempts = self.run.record.attempts
            print_text(self.console, f"gave up after {attempts} attempts: {limit}")
        # A run that was refused is only worth resuming for its checkpoint.
        if not failure.final or self.run.record.checkpoint:
            self._print_resume_command()

    def _print_indented(self, lines: list[str], style: str = "") -> None:
        for line in lines:
            print_text(self.console, f"  {line}", style)


def _choice(scores: Scores, steps: int) -> Iterator[str]:
    """What an evaluation has decided in a training of `steps`: where it ended, what is exported."""
    last, exported = scores.last_step, scores.exported_step
    if last is not None and last < steps:
        yield f"stopped early at step {last} of {steps} (spec.evaluation.earlyStopping)"
    if None not in (last, exported) and exported != last:
        yield (
            f"step {exported} was the best: it is in {OutputLayout.EXPORT}/, and step {last} in"
            f" {OutputLayout.EXPORT_LAST}/"
        )


def resume_command(file: Path, *, state: Path | None, nodes: int | None, gpus: int | None) -> str:
    """The command line that resumes a run of a job file with the same options."""
    arguments = ["run", str(file), "--resume"]
    for option, value in (("--state", state), ("--nodes", nodes), ("--gpus", gpus)):
        if value is not None:
            arguments += [option, str(value)]
    return command_line(*arguments)


def print_entry(console: Console, name: str, value: object) -> None:
    """Print a name and a value, the values below each other."""
    print_text(console, f"{name:<13}{value}")


def print_text(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: rich would read brackets as markup and color paths and numbers."""
    console.print(text, style=style, markup=False, highlight=False)
