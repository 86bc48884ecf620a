"""`dreambooth caption` and `dreambooth prompts`, with a model of random weights."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dreambooth_api.contract.exit_codes import ExitCode
from dreambooth_operator.cli.main import app
from dreambooth_trainer.captioning.command import by_options
from tests.corpus import vision_language

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos für 100%"
    folder.mkdir()
    for path in (EXAMPLES / "subjects" / "smiling-mug").glob("*.jpg"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_language.build(tmp_path_factory.mktemp("captioner"))


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, arguments)
    return ended.exit_code, f"{ended.output}{ended.exception or ''}"


def test_captions_are_written_beside_images_and_never_over_others(
    photos: Path, captioner: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, *others = sorted(photos.glob("*.jpg"))[:3]
    for path in sorted(photos.glob("*.jpg"))[3:]:
        path.unlink()
    first.with_suffix(".txt").write_text("my own caption of sks mug")
    arguments = ["--class", "mug", "--model", str(captioner), "--state", str(tmp_path / "state")]
    prompt = ["--system-prompt", "Describe the {noun}."]
    code, output = run("caption", str(photos), *arguments, "--write", "--check", *prompt)
    shown = capfd.readouterr().out
    assert code == 0
    assert "warning: --system-prompt: '{noun}' is read as words" in output
    assert f"{first.name}: my own caption of sks mug (its own)" in shown
    assert first.with_suffix(".txt").read_text() == "my own caption of sks mug"
    for path in others:
        text = path.with_suffix(".txt").read_text().strip()
        assert "sks mug" in text
        assert f"{path.name}: {text}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-folder", "--class", "mug"], "no-folder: no such folder"),
        ([".", "--class", "mug", "--model", "."], "--model .: is no folder of a model"),
        ([".", "--class", "mug", "--endpoint", "http://127.0.0.1:1/v1"], "--endpoint: name the"),
        ([".", "--class", "mug", "--endpoint", "nowhere", "--name", "m"], "--endpoint: must"),
        (["s3://bucket/photos", "--class", "mug", "--write"], "--write: writes beside images"),
        ([".", "--class", "mug", "--identifier", "two words"], "--identifier: must"),
        (["empty", "--class", "mug"], "empty: holds no files; put the images there"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, output = run("caption", *arguments)
    assert code != 0
    assert message in output


def test_a_folder_without_images_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("texts/a.txt", "model/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")  # nothing can be loaded from it
    folder, model, state = (str(tmp_path / name) for name in ("texts", "model", "state"))
    code, _ = run("caption", folder, "--class", "mug", "--model", model, "--state", state)
    assert code == ExitCode.BAD_DATA
    assert "the folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", ""], "--class: must"),
        (["--class", "mug", "--temperature", "3"], "--temperature: must be at most 2"),
        (["--class", "mug", "--endpoint", "http://127.0.0.1:1/v1"], "--endpoint: name the model"),
    ],
)
def test_prompts_refuse_what_is_wrong_by_its_option(arguments: list[str], message: str) -> None:
    code, output = run("prompts", *arguments)
    assert code != 0
    assert message in output


def test_messages_of_a_job_name_the_options() -> None:
    message = "spec.captioning.endpoint.url: http://127.0.0.1:1/v1 cannot be reached"
    assert by_options(message) == "--endpoint: http://127.0.0.1:1/v1 cannot be reached"
