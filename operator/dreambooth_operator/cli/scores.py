"""The scores of a run as a table."""

from typing import Any

from rich.table import Column, Table


def score_table(entry: dict[str, Any]) -> Table:
    """Scores of one subject before and after training.

    `entry` is one of `subjects` in scores.json. Scores are cosine similarities of image or text
    embeddings (DreamBooth paper, section 4.2).
    """
    subject, noun = f"{entry['identifier']} {entry['classNoun']}", entry["classNoun"]
    rows = [
        ("subject similarity", f"{subject} ~ real images", "subjectSimilarity"),
        ("prompt similarity", f"{subject} ~ its prompt", "promptSimilarity"),
        ("class similarity", f"any {noun} ~ real images", "classSimilarity"),
        ("class diversity", f"among any {noun}", "classDiversity"),
        ("subject diversity", f"among {subject}", "subjectDiversity"),
    ]
    numbers = (Column(name, justify="right") for name in ("before", "after", "real images"))
    table = Table("score", "of", *numbers)
    for name, compared, key in rows:
        scores = entry.get(key, {})
        table.add_row(name, compared, *(_score(scores.get(k)) for k in ("before", "after", "real")))
    return table


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
