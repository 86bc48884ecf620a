"""`dreambooth init`: a job file from a folder of photos."""

import os
import pty
import time
from pathlib import Path

import pytest
import yaml

from dreambooth_api.parsing.load import load
from tests.operator.cli.bench import Bench


@pytest.fixture
def photos(bench: Bench) -> Path:
    folder = bench.folder / "2nd Mug, ours"
    folder.mkdir()
    for name in ("a.jpg", "b.HEIC", "c.png", "a.txt"):
        (folder / name).touch()
    return folder


def test_file_is_a_valid_job_of_the_photos(bench: Bench, photos: Path) -> None:
    code, output = bench.dreambooth(
        "init", photos.name, "--class", "mug", "--model", "models/sd.safetensors",
        "--output", "out", "--file", "new.yaml",
    )  # fmt: skip
    assert code == 0, output
    assert "wrote new.yaml, with 3 photos" in output
    assert "run it:   dreambooth run new.yaml" in output
    job = load(bench.folder / "new.yaml")
    assert job.metadata.name == "nd-mug-ours"
    assert job.spec.model.source == f"{bench.folder}/models/sd.safetensors"
    assert job.spec.model.layout == "single-file"
    (subject,) = job.spec.subjects
    assert (subject.identifier, subject.class_noun) == ("sks", "mug")
    assert subject.images == f"file://{photos}"
    assert job.spec.output == f"file://{bench.folder}/out"
    assert bench.dreambooth("validate", "new.yaml") == (0, "new.yaml: valid\n")


def test_answers_are_asked_for_on_a_terminal(bench: Bench, photos: Path) -> None:
    ours, theirs = pty.openpty()
    process = bench.start("init", photos.name, "--file", "new.yaml", stdin=theirs)
    os.close(theirs)
    for answer in ("coffee mug", "zwx", "hf://owner/name", ""):
        os.write(ours, f"{answer}\n".encode())
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, output
    assert "What do the photos show (mug, dog, person):" in output
    job = load(bench.folder / "new.yaml")
    assert job.spec.subjects[0].prompt == "a photo of zwx coffee mug"
    assert job.spec.model.source == "hf://owner/name"
    assert job.spec.output == f"file://{bench.folder}/results"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("absent", "--class", "mug"), "absent: no such folder"),
        ((".", "--class", "mug"), "holds no photos"),
        (("{photos}",), "--class is required when standard input is not a terminal"),
        (("{photos}", "--class", "mug", "--identifier", "mug"), "spec.subjects: an identifier"),
        (("{photos}", "--class", "mug", "--file", "job.yaml"), "job.yaml exists already"),
    ],
)
def test_what_cannot_be_a_job_is_refused(
    bench: Bench, photos: Path, arguments: tuple[str, ...], problem: str
) -> None:
    given = [each.format(photos=photos.name) for each in arguments]
    if "--file" not in given:
        given += ["--file", "new.yaml"]
    code, output = bench.dreambooth("init", *given)
    assert code == 2
    assert problem in output
    assert not (bench.folder / "new.yaml").exists()
    assert yaml.safe_load(bench.file.read_text()) == bench.job


def test_few_photos_are_warned_of(bench: Bench, photos: Path) -> None:
    (photos / "a.jpg").unlink()
    code, output = bench.dreambooth("init", photos.name, "--class", "mug", "--force")
    assert code == 0
    assert "holds 2 photos; 3 to 5 are usual" in output
