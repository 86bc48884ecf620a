"""`make bench-gpu` on a CPU: every row at tiny sizes, and what becomes of rows that fail."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.gpu import wheels
from tests.bench.gpu.__main__ import ROWS, main
from tests.bench.gpu.figures import Figure, Result, to_json, to_markdown
from tests.bench.gpu.runner import TOTAL_SECONDS, NotLandedError, Row, run_rows

QUICK = {"one-forward"}
"""The other rows train whole jobs."""


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] * (each not in QUICK)) for each in ROWS]
)
def test_a_row_runs_on_a_tiny_model(tmp_path: Path, name: str) -> None:
    assert main([name, "--tiny", "--output", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "figures.json").read_text())
    assert {"date", "GPU", "driver", "torch", "commit"} <= document["environment"].keys()
    [row] = document["rows"]
    assert row["outcome"] == "measured", row["reason"]
    assert row["figures"]
    for figure in row["figures"]:
        assert figure.keys() == {"name", "value", "unit", "target", "met"}
        assert figure["met"] is None  # tiny sizes are not judged
    assert f"| {name} |" in (tmp_path / "figures.md").read_text()


def test_what_all_rows_may_take_is_at_most_the_whole_time() -> None:
    assert sum(row.seconds for row in ROWS.values()) <= TOTAL_SECONDS


def _fails(folder: Path, tiny: bool) -> Iterator[Figure]:
    yield Figure("before", 1)
    raise ValueError("out of luck\nsome details")


def _hangs(folder: Path, tiny: bool) -> Iterator[Figure]:
    (folder / "file").touch()
    yield Figure("before", 2)
    time.sleep(600)


def _missing(folder: Path, tiny: bool) -> Iterator[Figure]:
    raise NotLandedError("the trainer has no family for FluxNextPipeline")
    yield


def _dies(folder: Path, tiny: bool) -> Iterator[Figure]:
    import os

    yield Figure("before", 3)
    os._exit(7)


def _fine(folder: Path, tiny: bool) -> Iterator[Figure]:
    yield Figure("ratio", 0.9, at_least=1)


def test_rows_that_end_early_keep_their_figures_and_leave_the_others_alone() -> None:
    rows = {
        "fails": Row(_fails, 100),
        "hangs": Row(_hangs, 1e-9),
        "missing": Row(_missing, 100),
        "dies": Row(_dies, 100),
        "fine": Row(_fine, 100),
    }
    results = {result.row: result for result in run_rows(rows, tiny=True)}
    assert {name: (each.outcome, each.reason) for name, each in results.items()} == {
        "fails": ("failed", "ValueError: out of luck"),
        "hangs": ("timed out", "no end within 0 s"),
        "missing": ("skipped", "the trainer has no family for FluxNextPipeline"),
        "dies": ("failed", "its process ended with 7"),
        "fine": ("measured", ""),
    }
    assert [figure.value for figure in results["fails"].figures] == [1]
    assert [figure.value for figure in results["dies"].figures] == [3]
    assert results["fine"].figures == [Figure("ratio", 0.9, at_least=1)]


def test_a_row_that_hangs_keeps_what_it_measured() -> None:
    # The first row waits for the server that processes are forked from.
    first, hanging = run_rows({"fine": Row(_fine, 100), "hangs": Row(_hangs, 4)}, tiny=True)
    assert first.outcome == "measured"
    assert hanging.outcome == "timed out"
    assert [figure.value for figure in hanging.figures] == [2]


def test_rows_without_time_are_skipped() -> None:
    [result] = run_rows({"fine": Row(_fine, 1)}, tiny=True, total_seconds=0)
    assert result == Result("fine", "skipped", "all 0 s were used up")


def test_the_document_judges_figures_by_their_targets() -> None:
    figures = [
        Figure("ratio", 0.9, at_least=0.85, at_most=1.15),
        Figure("rate", 5.0, "1/s", at_least=6),
        Figure("step", 0.25, "s"),
        Figure("nothing", float("nan"), at_least=0),
    ]
    results = [Result("row", figures=figures), Result("other", "failed", "a | b")]
    document = to_json({"GPU": "H200"}, results, judged=True)
    assert [each["met"] for each in document["rows"][0]["figures"]] == [True, False, None, False]
    lines = to_markdown(document).splitlines()
    assert lines[2] == "| row | ratio | 0.9 | at least 0.85, at most 1.15 | pass |"
    assert lines[3] == "| row | rate | 5 1/s | at least 6 | MISS |"
    assert lines[6] == "| other | | failed: a \\| b | | |"
    assert lines[-1] == "- GPU: H200"


def test_wheels_are_what_torch_and_transformers_do_not_bring() -> None:
    names = {requirement.partition("==")[0] for requirement in wheels.missing_packages()}
    assert {"diffusers", "peft", "pytorch-lightning", "boto3", "pydantic"} <= names
    assert not names & {"torch", "transformers", "safetensors", "numpy", "dreambooth-trainer"}
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]


def test_wheels_are_not_added_to_a_folder_that_has_files(tmp_path: Path) -> None:
    (tmp_path / "old.whl").touch()
    with pytest.raises(SystemExit, match="has files already"):
        wheels.download(tmp_path)
