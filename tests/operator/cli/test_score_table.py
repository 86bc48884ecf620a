"""The scores of a run in the terminal."""

import io

from rich.console import Console

from dreambooth_api.contract.scores import DEFINITIONS
from dreambooth_operator.cli.terminal.scores import score_tables
from tests.crds.contract.example_scores import example_scores


def printed() -> str:
    out = io.StringIO()
    console = Console(file=out, width=120)
    for table in score_tables(example_scores()):
        console.print(table)
    return out.getvalue()


def row(title: str) -> str:
    (line,) = [line for line in printed().splitlines() if f" {title} (" in line]
    return line


def test_a_score_has_its_interval_its_ceiling_and_its_change() -> None:
    line = row(DEFINITIONS["subjectSimilarity"].title)
    for value in ("0.500 ±0.050", "0.750 ±0.050", "0.875 ±0.050", "+0.250 better"):
        assert value in line


def test_a_difference_inside_the_noise_is_called_none() -> None:
    line = row("prompt following")
    assert "0.250 ±0.050" in line
    assert "none" in line
    assert "worse" not in line


def test_a_table_says_of_what_it_is() -> None:
    assert "sks mug at step 9" in printed()
    assert "16 images per score, 8 real ones; DINO and CLIP" in printed()
