"""Runs the members of a sweep on this machine, one after the other."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from dreambooth_api.contract.scores import Scores, UnreadableScoresError
from dreambooth_api.models.job import output_layout
from dreambooth_api.parsing.warnings.advice import warnings
from dreambooth_operator.cli.results import LocalResults
from dreambooth_operator.cli.run import (
    Terminal,
    print_storage,
    run_to_end,
    upload_files,
    with_ranks,
)
from dreambooth_operator.cli.sweep.members import Member
from dreambooth_operator.cli.sweep.results import Result
from dreambooth_operator.cli.terminal.end import print_text
from dreambooth_operator.local.host import check_fits
from dreambooth_operator.local.runner import StopRequest, stop_on_signals
from dreambooth_operator.local.state import Run, State
from dreambooth_operator.local.storage import needs_embedded, storage_for, with_endpoint
from dreambooth_operator.local.uploads import Upload


@dataclass(frozen=True)
class LocalSweep:
    """Members, and what they need to run on this machine."""

    members: Sequence[Member]
    state: State
    uploads: list[Upload]
    command: str
    """The command line that goes on with the sweep."""
    console: Console

    def run(self) -> dict[str, Run]:
        """Run the members that have not succeeded yet; returns the newest run of each, by name.

        A member that was stopped or failed resumes from its checkpoint. One that fails leaves the
        others alone. A request to stop ends the sweep; members that had no turn have no run.

        Raises:
            UserError: Another process uses the state folder.
            StorageError: An upload fails.
        """
        with self.state.locked(), stop_on_signals() as stop:
            self._upload()
            for number, member in enumerate(self.members, 1):
                print_text(
                    self.console,
                    f"\njob {number} of {len(self.members)}: {member.name} ({member})",
                    style="bold",
                )
                self._run(member, stop)
                if stop.requested:
                    break
        return {member.name: run for member in self.members if (run := self._run_of(member))}

    def _upload(self) -> None:
        """Upload once: the members share their images."""
        job = self.members[0].job
        if self.uploads:
            with storage_for(job, self.state, needs_embedded(job)) as storage:
                upload_files(self.uploads, storage, self.state, self.console)

    def _run(self, member: Member, stop: StopRequest) -> None:
        run = self._run_of(member)
        if run is not None and run.record.state == "Succeeded":
            print_text(self.console, "succeeded before")
            return
        if run is not None and run.has_progress:
            print_text(self.console, f"resuming {run.folder.name} {run.resume_point}")
        else:
            run = self.state.new_run(member.job, embedded=needs_embedded(member.job))
        advice = warnings(member.job)
        for warning in advice:
            print_text(self.console, f"warning: {warning}")
        with storage_for(run.job, self.state, run.record.embedded) as storage:
            print_storage(storage, self.state, self.console)
            run_to_end(run, storage, stop, Terminal(self.console, self.command, advice))

    def _run_of(self, member: Member) -> Run | None:
        """The run to show or to resume; None where there is none of the job as it is now."""
        metadata = member.job.metadata
        run = self.state.run_to_resume(metadata.name, metadata.namespace)
        return run if run is not None and run.job.spec == member.job.spec else None


def on_this_machine(
    members: Sequence[Member], *, nodes: int | None, gpus: int | None
) -> list[Member]:
    """The members with --nodes and --gpus, and the server that the environment names.

    Raises:
        UserError: A member is not valid with them, or does not fit on this machine.
    """
    fitting = []
    for member in members:
        job = with_endpoint(with_ranks(member.job, nodes=nodes, gpus=gpus), os.environ)
        check_fits(job)
        fitting.append(replace(member, job=job))
    return fitting


def local_results(members: Sequence[Member], runs: Mapping[str, Run]) -> list[Result]:
    """What became of the members; `runs` holds those that had a turn, by name."""
    return [_result(member, runs.get(member.name)) for member in members]


def _result(member: Member, run: Run | None) -> Result:
    if run is None:
        return Result(member.name, member.settings, phase="")
    record, fetched = run.record, LocalResults(run.results, list(run.results.rglob("*")))
    result = Result(
        name=member.name,
        settings=member.settings,
        phase=record.state,
        reason=record.failure,
        seconds=record.seconds,
        scores=_scores(fetched),
        output=output_layout(run.job).root,
    )
    grid = fetched.grid(result.step)
    return replace(result, samples=f"file://{grid}" if grid else None)


def _scores(results: LocalResults) -> Scores | None:
    """The scores that were fetched at the end of the run; None without an evaluation."""
    try:
        return results.scores
    except UnreadableScoresError:
        return None
