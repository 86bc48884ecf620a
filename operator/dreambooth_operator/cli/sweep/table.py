"""The table of a sweep in the terminal."""

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from dreambooth_api.contract.scores import DEFINITIONS, Estimate, ScoreName
from dreambooth_operator.cli.sweep.members import show
from dreambooth_operator.cli.sweep.results import Result, best_first, score_names, short_fields

SHOWN = (ScoreName.SUBJECT_SIMILARITY, ScoreName.PROMPT_SIMILARITY, ScoreName.CLASS_DRIFT)
"""The page has all of them; a terminal has room for the main ones."""


def to_table(results: Sequence[Result]) -> Table:
    """One line for each member, the best first."""
    fields = short_fields(results)
    names = [name for name in score_names(results) if name in SHOWN]
    numbers = ["step", *(DEFINITIONS[name].title for name in names), "minutes"]
    table = Table(
        *(Column(Text(title)) for title in fields.values()),
        *(Column(title, justify="right") for title in numbers),
        "phase",
    )
    for result in best_first(results):
        table.add_row(
            *(Text(show(result.settings[field])) for field in fields),
            "" if result.step is None else str(result.step),
            *(with_interval(result.estimate(name)) for name in names),
            minutes(result),
            Text(f"{result.phase}: {result.reason}" if result.reason else result.phase),
        )
    return table


def minutes(result: Result) -> str:
    """How long a member ran; empty for one that has not."""
    return "" if result.seconds is None else f"{result.seconds / 60:.1f}"


def with_interval(estimate: Estimate | None) -> str:
    """A value and its 95 % interval."""
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
