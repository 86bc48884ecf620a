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
    """The sample grid of that model, or the newest one, as a URI; None without one."""
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

    @property
    def class_fidelity(self) -> float:
        """The smallest of any subject; infinite where it is not known."""
        subjects = self.scores.subjects if self.scores else []
        values = [each.scores.get(ScoreName.CLASS_FIDELITY) for each in subjects]
        known = [each.trained.value for each in values if each and each.trained]
        return min(known, default=math.inf)

    def estimate(self, name: ScoreName) -> Estimate | None:
        """A score of the trained model, averaged over the subjects; None where one lacks it."""
        subjects = self.scores.subjects if self.scores else []
        values = [subject.scores.get(name) for subject in subjects]
        trained = [each.trained for each in values if each is not None and each.trained is not None]
        return mean(trained) if trained and len(trained) == len(subjects) else None


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, one or more."""
    count = len(estimates)
    value = sum(each.value for each in estimates) / count
    # Independent errors add up in squares.
    down = math.hypot(*(each.value - each.low for each in estimates)) / count
    up = math.hypot(*(each.high - each.value for each in estimates)) / count
    return Estimate(value=value, low=value - down, high=value + up)


def best_first(results: Sequence[Result]) -> list[Result]:
    """The results as a run orders its checkpoints (spec.evaluation.select).

    Those below the limit of the class fidelity come after the others, and those without scores
    last, in the order given. The limit is the highest of any member: one that does not keep the
    class has none of its own.
    """
    limits = [
        each.scores.selection.min_class_fidelity
        for each in results
        if each.scores and each.scores.selection
    ]
    limit = max((each for each in limits if each is not None), default=-math.inf)

    def order(result: Result) -> tuple[float, float]:
        selection = result.scores.selection if result.scores else None
        if selection is None:
            return math.inf, 0
        return max(limit - result.class_fidelity, 0), -selection.score

    return sorted(results, key=order)


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
