"""The scores of a run as a table."""

from collections.abc import Iterator

from rich.table import Column, Table

from dreambooth_api.contract.scores import DEFINITIONS, Estimate, Scores, ScoreValues, SubjectScores


def score_tables(scores: Scores) -> Iterator[Table]:
    """One table per subject: each score before and after training, and of real images.

    Values have half the width of their interval; a change inside the noise is called none.
    """
    for subject in scores.subjects:
        yield _table(scores, subject)


def _table(scores: Scores, subject: SubjectScores) -> Table:
    counts = subject.counts
    table = Table(
        Column("score", no_wrap=True),
        *(Column(name, justify="right") for name in ("base", "trained", "real images", "change")),
        title=f"{subject.identifier} {subject.class_noun} at step {scores.step}",
        caption=f"{counts.subject} images per score, {counts.references} real ones;"
        f" {scores.encoders.image.name} and {scores.encoders.text.name}",
        title_justify="left",
        caption_justify="left",
    )
    for name, definition in DEFINITIONS.items():
        if (values := subject.scores.get(name)) is not None:
            title = definition.title
            if definition.abbreviation:
                title += f" ({definition.abbreviation})"
            estimates = (values.base, values.trained, values.real)
            change = _change(values, subject.change(name))
            table.add_row(title, *map(with_interval, estimates), change)
    return table


def with_interval(estimate: Estimate | None) -> str:
    """A value and half the width of its 95 % interval; empty where there is none."""
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} ±{(estimate.high - estimate.low) / 2:.3f}"


def _change(values: ScoreValues, change: str | None) -> str:
    if change is None or values.base is None or values.trained is None:
        return ""
    if change == "unclear":
        return "too few images"
    if change == "none":
        return "none"
    return f"{values.trained.value - values.base.value:+.3f} {change}"
