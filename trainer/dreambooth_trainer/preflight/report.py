"""The result of preflight, for the log and for the job's status."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dreambooth_api.contract.exit_codes import ExitCode, is_retryable
from dreambooth_api.contract.termination import MAX_BYTES, Termination
from dreambooth_storage import StorageError, StorageUnavailableError, WrongEndpointError
from dreambooth_trainer.process.errors import TrainerError
from dreambooth_trainer.process.exit_status import exit_code_of
from dreambooth_trainer.resolved_job import ResolvedJob

LONGEST_LINE = 600
"""Characters of one line of a status message."""


@dataclass
class PreflightReport:
    """The problems of a job: `errors` prevent training, `warnings` do not.

    `notes` describe behaviour that is right but may surprise the user.
    """

    errors: list[Exception] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    job: ResolvedJob | None = None
    """The job with its model's defaults; None: the model cannot be read."""

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Record a `TrainerError` or `StorageError`, so that the next check still runs."""
        try:
            yield
        except (TrainerError, StorageError) as error:
            if str(error) not in map(str, self.errors):
                self.errors.append(error)

    @property
    def unreachable(self) -> bool:
        """Whether storage does not answer at all, so that every further check would time out."""
        return any(
            isinstance(error, (StorageUnavailableError, WrongEndpointError))
            for error in self.errors
        )

    @property
    def exit_code(self) -> int:
        """0, or that of the first error that a retry cannot fix, else of the first error."""
        codes = [exit_code_of(error) for error in self.errors]
        terminal = [code for code in codes if not is_retryable(code)]
        return next(iter(terminal or codes), ExitCode.DONE)

    @property
    def _summary(self) -> str:
        counts = f"{len(self.errors)} error(s), {len(self.warnings)} warning(s)"
        return f"the job {'cannot' if self.errors else 'can'} be trained: {counts}"

    def message(self) -> str:
        """The report for a status: the errors first, then warnings and notes, one a line.

        Cut to the bytes that fit into a termination message (core/v1 terminationMessagePath).
        """
        lines = [line for error in self.errors for line in _lines(str(error))]
        lines += [f"warning: {line}" for warning in self.warnings for line in _lines(warning)]
        lines += [f"note: {line}" for note in self.notes for line in _lines(note)]
        rest = Termination(message=f"... and 1000000 more\n{self._summary}")
        room = MAX_BYTES - len(rest.encode())
        kept: list[str] = []
        for line in lines:
            # As JSON, which is longer than the line: the termination message is JSON.
            room -= len(json.dumps(line, ensure_ascii=False).encode())
            if room < 0:
                kept.append(f"... and {len(lines) - len(kept)} more")
                break
            kept.append(line)
        return "\n".join([*kept, self._summary])

    def __str__(self) -> str:
        lines = [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"error: {error}" for error in self.errors]
        return "\n".join([*lines, self._summary])


def _lines(text: str) -> Iterator[str]:
    """Each problem of a text on one line, with the indented lines that explain it."""
    for problem in re.split(r"\n(?! )", text):
        head, *details = problem.split("\n  ")
        line = f"{head} {'; '.join(details)}" if details else head
        yield line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
