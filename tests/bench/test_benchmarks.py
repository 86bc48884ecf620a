"""Benchmarks run, in tiny sizes whose figures mean nothing, and their rows are printed."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.report import Measurement, Row, main, ratio

FOLDER = Path(__file__).parent
MEASUREMENTS: dict[str, Measurement] = {
    name: measurement
    for path in sorted(FOLDER.rglob("__main__.py"))
    for name, measurement in importlib.import_module(
        ".".join(path.relative_to(FOLDER.parents[1]).with_suffix("").parts)
    ).MEASUREMENTS.items()
}


@pytest.fixture(autouse=True)
def _no_settings_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh clone: the benchmarks bring their own credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


SLOW = {"quality", "ranks", "storage-faults", "goodput"}
"""They run whole jobs, as tests/e2e does, or save as `saving` does."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in MEASUREMENTS],
)
def test_short_run(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = main(MEASUREMENTS, None, [name, "--short"])
    shown = capfd.readouterr()
    assert code == 0, shown.out + shown.err
    assert shown.out


def _broken(folder: Path, short: bool) -> Iterator[Row]:
    yield Row("before", "1")
    raise ValueError("no credentials\nsome details")


def _slow(folder: Path, short: bool) -> Iterator[Row]:
    yield ratio("slow / fast", [1.5, 2.5, 2.0], at_most=1.0)


def _fine(folder: Path, short: bool) -> Iterator[Row]:
    yield ratio("fine / fast", [0.5], at_most=1.0)


def test_a_row_that_fails_says_so_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"broken": _broken, "fine": _fine}, None, []) == 1
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.split() == ["before", "1"]
    assert second.startswith("broken ")
    assert second.endswith("FAILED: ValueError: no credentials")
    assert third.split(maxsplit=3) == ["fine", "/", "fast", f"{'0.500':<28} met: at most 1.00"]
    assert "some details" in err


def test_a_missed_target_ends_with_1_unless_the_run_is_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main({"slow": _slow}, None, []) == 1
    assert "2.000 (1.500 to 2.500)       MISSED: at most 1.00" in capsys.readouterr().out
    assert main({"slow": _slow}, None, ["--short"]) == 0
    assert "MISSED" not in capsys.readouterr().out


def test_a_row_is_printed_before_the_next_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def looks(folder: Path, short: bool) -> Iterator[Row]:
        yield Row("first", "1")
        seen.append(capsys.readouterr().out)

    assert main({"looks": looks}, None, []) == 0
    assert "first" in seen[0]


def test_rows_run_alone_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({"broken": _broken, "fine": _fine}, None, ["fine"]) == 0
    assert capsys.readouterr().out.startswith("fine / fast")
    with pytest.raises(SystemExit):
        main({"fine": _fine}, None, ["gone"])
    assert "no measurement is named gone" in capsys.readouterr().err
