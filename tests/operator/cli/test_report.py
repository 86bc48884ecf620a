"""`dreambooth report`: the page of a run from its folder, its URI or its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_operator.cli.main import app
from dreambooth_operator.errors import UserError
from dreambooth_operator.local.state import State
from tests.report.runs import write_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a run; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path, name="my-mug", steps=(0, 8), seeds=1)


def report(*arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_folder_and_a_uri_name_a_run(run: str, tmp_path: Path) -> None:
    assert report("run") == "my-mug-report.html\n"
    assert report(run, "--output", "mug.html") == "mug.html\n"
    pages = [(tmp_path / name).read_text() for name in ("my-mug-report.html", "mug.html")]
    assert pages[0] == pages[1]
    assert report(run, "--output", "pages/mug.html") == "pages/mug.html\n"
    assert (tmp_path / "pages/mug.html").read_text() == pages[0]
    assert "<h1>my-mug</h1>" in pages[0]


def test_any_character_may_be_in_the_path(run: str, tmp_path: Path) -> None:
    (tmp_path / "run").rename(tmp_path / "mein Lauf 50%")
    assert report("mein Lauf 50%") == "my-mug-report.html\n"


def test_a_folder_without_a_run_is_explained(run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run\.json; either this run has not begun"):
        report(f"{run}/samples")
    with pytest.raises(UserError, match="my-cup: no such file, and no run of that name"):
        report("my-cup", "--state", str(tmp_path / "state"))
    with pytest.raises(UserError, match="--output run: is a folder; name a file, such as run/run"):
        report("run", "--output", "run")
    with pytest.raises(UserError, match=r"--output run/run\.json: cannot be written to"):
        report("run", "--output", "run/run.json/page.html")
    assert not list(tmp_path.glob("*.html"))


def test_a_run_that_failed_before_it_trained_says_why(tmp_path: Path) -> None:
    write_run(tmp_path, steps=(0,), seeds=1)
    record = tmp_path / "run/run.json"
    job = DreamBoothJob.model_validate(json.loads(record.read_text())["job"])
    run = State(tmp_path / "state").new_run(job, embedded=False)
    run.record.attempts, run.record.failure = 1, "spec.subjects[0].images: no image decodes\n"
    run.save()
    with pytest.raises(UserError, match=r"failed before it trained, .* no image decodes$"):
        report(job.metadata.name, "--state", str(tmp_path / "state"))
