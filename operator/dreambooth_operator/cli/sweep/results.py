"""What became of the members of a sweep, the best first. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_api.contract.scores import Estimate, ScoreName, Scores
from dreambooth_operator.cli.sweep.members import Settings


@dataclass(frozen=True)
class Result:
    """One member: its values, and how it ended or how far it is."""

    name: str
    """Name of the job."""
    settings: Settings
    phase: str
    """As the run or the job says, such as Succeeded; empty for one that had no turn yet."""
    reason: str = ""
    """Why it failed; empty when it did not."""
    seconds: float | None = None
    """How long it ran."""
    scores: Scores | None = None
    output: str = ""
    """Folder of the run, as a URI."""
    samples: str | None = None
    """The newest sample grid, as a URI; None without one."""
    best_step: int | None = None
    """Step of the best checkpoint so far; None where it is not known."""

    @property
    def cause(self) -> str:
        """Why it failed, on one line."""
        return next(iter(self.reason.strip().splitlines()), "")

    @property
    def step(self) -> int | None:
        """Optimizer steps of the model that was exported, or is the best so far."""
        if self.scores is None:
            return self.best_step
        return self.scores.step if self.scores.exported_step is None else self.scores.exported_step

    def estimate(self, name: ScoreName) -> Estimate | None:
        """A score of the trained model, averaged over the subjects; None where one lacks it."""
        subjects = self.scores.subjects if self.scores else []
        values = [subject.scores.get(name) for subject in subjects]
        trained = [each.trained for each in values if each is not None and each.trained is not None]
        return mean(trained) if trained and len(trained) == len(subjects) else None

    @property
    def score(self) -> float | None:
        """What members are compared by: subject similarity times prompt following.

        As `evaluation.select` has it by default: each averaged over the subjects first. None
        without either score.
        """
        product = 1.0
        for name in (ScoreName.SUBJECT_SIMILARITY, ScoreName.PROMPT_SIMILARITY):
            estimate = self.estimate(name)
            if estimate is None:
                return None
            # Two similarities below zero are no good model.
            product *= max(estimate.value, 0)
        return product


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, one or more."""
    count = len(estimates)
    value = sum(each.value for each in estimates) / count
    # Independent errors add up in squares.
    down = math.hypot(*(each.value - each.low for each in estimates)) / count
    up = math.hypot(*(each.high - each.value for each in estimates)) / count
    return Estimate(value=value, low=value - down, high=value + up)


def best_first(results: Sequence[Result]) -> list[Result]:
    """The results by falling score; those without one last, in the order given."""
    return sorted(results, key=lambda each: math.inf if each.score is None else -each.score)


def score_names(results: Sequence[Result]) -> list[ScoreName]:
    """The scores that a result has, in the order in which tables show them."""
    return [name for name in ScoreName if any(each.estimate(name) for each in results)]


def short_fields(results: Sequence[Result]) -> dict[str, str]:
    """Titles of the fields that are set: the last part of a path, or all where these are equal."""
    fields = list(dict.fromkeys(field for each in results for field in each.settings))
    last = [field.rpartition(".")[2] for field in fields]
    return {
        field: word if last.count(word) == 1 else field
        for field, word in zip(fields, last, strict=True)
    }
