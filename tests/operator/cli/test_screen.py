"""What the terminal shows."""

import io
from typing import Any

import pytest
from rich.console import Console

from dreambooth_api.contract.progress import Progress
from dreambooth_operator.cli.terminal.screen import (
    LiveScreen,
    PlainScreen,
    figures,
    screen_for,
    stage_name,
)


def progress(stage: str = "Training", **fields: Any) -> Progress:
    return Progress.model_validate({"stage": stage, "step": 0, "totalSteps": 400, **fields})


def text_console(**options: Any) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=100, **options), out


def test_figures_have_units() -> None:
    seen = figures(progress(step=40, loss=0.12345, imagesPerSecond=17.26, etaSeconds=200))
    assert seen == ["step 40/400", "loss 0.1235", "17.3 images/s", "3m20s left"]
    assert figures(progress("GeneratingPrior", prior={"done": 3, "total": 12})) == [
        "class image 3/12"
    ]
    assert figures(progress("GeneratingPrior")) == []
    assert figures(progress("Captioning", captioning={"done": 2, "total": 9})) == ["answer 2/9"]
    assert figures(progress("Captioning")) == []
    assert figures(progress("Evaluating", protocol={"done": 64, "total": 232})) == ["image 64/232"]


def test_plain_screen_prints_changes_of_stage_at_once_and_steps_seldom() -> None:
    console, out = text_console()
    screen = screen_for(console)
    assert isinstance(screen, PlainScreen)
    screen.update(None, None, stopping=False)
    for step in range(50):
        screen.update(progress(step=step), None, stopping=False)
    screen.update(progress("Exporting", step=400), None, stopping=False)
    screen.update(progress("Exporting", step=400), None, stopping=False)
    lines = out.getvalue().splitlines()
    assert lines == ["Starting", "Training  step 0/400", "Exporting  step 400/400"]


def test_start_of_an_attempt_is_one_line() -> None:
    console, out = text_console()
    screen = screen_for(console)
    for attempt in range(2):
        screen.attempt_started(attempt)
        screen.update(None, None, stopping=False)
        screen.update(progress("Preparing"), None, stopping=False)
    assert out.getvalue().splitlines() == [
        "attempt 0: starting",
        "Preparing",
        "attempt 1: starting",
        "Preparing",
    ]


def test_failed_save_is_a_line_until_it_is_mended() -> None:
    console, out = text_console()
    screen = screen_for(console)
    failed = progress(failedSaves=2, saveProblem="s3://bucket: access denied [403]")
    for each in (failed, failed, progress(failedSaves=2), failed):
        screen.update(each, None, stopping=False)
    line = "checkpoint not saved (2 failed so far): s3://bucket: access denied [403]"
    assert out.getvalue().splitlines() == [line, "Training  step 0/400", line]


@pytest.mark.parametrize("field", ["warnings", "saveWarning"])
def test_warning_is_printed_once(field: str) -> None:
    console, output = text_console()
    screen = screen_for(console)
    text = "spec.subjects[0].images: 1 file(s) are not trained on, 4 are:\n  a.jpg: damaged"
    for step in range(3):
        value = [text] if field == "warnings" else text
        screen.update(progress(step=step, **{field: value}), None, stopping=False)
    assert output.getvalue().count(f"warning: {text}") == 1


def test_notes_are_no_warnings() -> None:
    console, output = text_console()
    note = "spec.resumeFrom: goes on from step 4 of 8: s3://out"
    screen_for(console).update(progress(notes=[note]), None, stopping=False)
    assert output.getvalue().splitlines()[0] == f"note: {note}"


def test_stopping_saves_only_what_was_trained() -> None:
    assert "saving a checkpoint" in stage_name(progress("Training"), stopping=True)
    for early in (None, progress("Preparing"), progress("Captioning"), progress("GeneratingPrior")):
        assert stage_name(early, stopping=True) == "Stopping (Ctrl-C again stops at once)"
    images = progress("Evaluating", protocol={"done": 0, "total": 232})
    assert stage_name(images, stopping=True) == "Stopping (Ctrl-C again stops at once)"


def test_where_an_attempt_resumes_is_printed_once() -> None:
    console, output = text_console()
    screen = screen_for(console)
    for stage in ("Preparing", "GeneratingPrior", "Training"):
        screen.update(progress(stage, step=4, resumedFrom=4, attempt=1), None, stopping=False)
    assert output.getvalue().splitlines() == [
        "attempt 1: resumed from the checkpoint of step 4",
        "Preparing",
        "GeneratingPrior",
        "Training  step 4/400",
    ]


def test_warnings_outlast_the_live_view() -> None:
    console, out = text_console(force_terminal=True)
    screen = screen_for(console, ["known before"])
    for _ in range(2):
        screen.update(progress(warnings=["a.jpg: damaged", "known before"]), None, stopping=False)
    screen.close()
    assert out.getvalue().count("warning: a.jpg: damaged\n") == 1
    assert "known before" not in out.getvalue()


def test_live_screen_shows_a_failed_save() -> None:
    console, out = text_console(force_terminal=True)
    screen = screen_for(console)
    screen.update(progress(failedSaves=1, saveProblem="access denied [403]"), None, stopping=False)
    screen.close()
    assert "checkpoint not saved (1 failed so far): access denied [403]" in out.getvalue()


def test_live_screen_shows_stage_bar_and_figures() -> None:
    console, out = text_console(force_terminal=True)
    screen = screen_for(console)
    assert isinstance(screen, LiveScreen)
    screen.update(progress(step=100, loss=0.5), None, stopping=False)
    screen.close()
    for part in ("Training", "━", "step 100/400", "loss 0.5000"):
        assert part in out.getvalue()
