"""The results of a sweep in a table: in the terminal, and on a page."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Column, Table
from rich.text import Text

from dreambooth_api.contract.scores import DEFINITIONS, ScoreName
from dreambooth_operator.cli.sweep.members import describe, show
from dreambooth_operator.cli.sweep.results import Result, best_first, score_names, short_fields
from dreambooth_operator.cli.terminal.scores import with_interval
from dreambooth_report import sweep
from dreambooth_report.pictures import ReadStart

FIELD_WIDTH = len("learningRate")
"""Characters that the title of a field has room for before it is wrapped."""
NOT_RUN = "not run"
SHOWN = (ScoreName.SUBJECT_SIMILARITY, ScoreName.PROMPT_SIMILARITY, ScoreName.CLASS_FIDELITY)
"""The page has all of them; a terminal has room for the main ones."""


def to_table(results: Sequence[Result]) -> Table:
    """One line for each member, the best first; why one failed has no room in it."""
    names = [name for name in score_names(results) if name in SHOWN]
    fields = short_fields(results)
    table = Table(
        *(
            Column(Text(title), overflow="fold", min_width=min(len(title), FIELD_WIDTH))
            for title in fields.values()
        ),
        *(Column(each, justify="right", min_width=_longest_word(each)) for each in _columns(names)),
        Column("phase", no_wrap=True),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for result in best_first(results):
        cells = [*_cells(result, fields, names), result.phase or NOT_RUN]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def to_page(name: str, results: Sequence[Result], read: ReadStart) -> str:
    """The same as an HTML document, with all scores and the samples of each member.

    Args:
        name: Name of the sweep.
        results: Of its members.
        read: Reads sample grids.
    """
    names, fields = score_names(results), short_fields(results)
    jobs = [
        sweep.SweepJob(
            name=result.name,
            title=describe(result.settings),
            cells=_cells(result, fields, names),
            phase=result.phase or NOT_RUN,
            reason=result.reason,
            output=result.output,
            samples=result.samples,
        )
        for result in best_first(results)
    ]
    return sweep.render(name, [*fields.values(), *_columns(names)], jobs, read)


def _columns(names: Sequence[ScoreName]) -> list[str]:
    """Titles of the columns that hold numbers."""
    return ["step", *(DEFINITIONS[name].title for name in names), "min"]


def _cells(result: Result, fields: Iterable[str], names: Sequence[ScoreName]) -> list[str]:
    """Texts of a row, but for its phase."""
    return [
        *(show(result.settings[field]) if field in result.settings else "" for field in fields),
        "" if result.step is None else str(result.step),
        *(with_interval(result.estimate(name)) for name in names),
        minutes(result),
    ]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()))


def minutes(result: Result) -> str:
    """How long a member ran; empty for one that has not."""
    return "" if result.seconds is None else f"{result.seconds / 60:.1f}"
