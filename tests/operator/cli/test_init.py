"""`dreambooth init`: a job file from a folder of photos."""

import json
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
    (bench.folder / "models").mkdir()
    (bench.folder / "blob").touch()
    # As in the hub's cache.
    (bench.folder / "models" / "sd.safetensors").symlink_to(bench.folder / "blob")
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
    local = "spec.model.source, spec.subjects[0].images, spec.output: local to this machine"
    assert f"note: {local}" in output
    code, output = bench.dreambooth("validate", "new.yaml")
    assert code == 0
    assert "new.yaml: valid\n" in output


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
        (("{photos}", "--class", "mug", "--file", "no/x.yaml"), "there is no folder no; create it"),
        (("{photos}", "--class", "mug", "--file", ".", "--force"), "--file .: is a folder"),
        (("{photos}", "--class", "mug", "--model", "owner/name"), "write hf://owner/name"),
        (("{photos}", "--class", "mug", "--model", "/no/model"), "no such file or folder"),
        (("{photos}", "--class", "mug", "--model", "file:///no/model"), "no such file or folder"),
        (("{photos}", "--class", "mug", "--model", "{photos}"), "not a model; name a folder with"),
        (("{photos}", "--class", "mug", "--model", "{photos}/a.jpg"), "not a model; name a folder"),
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


@pytest.mark.parametrize(("sample_size", "slow"), [(16, False), (64, True), ("?", True)])
def test_small_model_may_be_trained_without_a_gpu(
    bench: Bench,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    sample_size: object,
    slow: bool,
) -> None:
    """Its resolution is known by its configuration."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = bench.folder / "model"
    for part in ("unet", "vae"):
        (model / part).mkdir(parents=True)
    (model / "model_index.json").touch()
    (model / "unet" / "config.json").write_text(json.dumps({"sample_size": sample_size}))
    (model / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [32, 32, 64]}))
    code, output = bench.dreambooth(
        "init", photos.name, "--class", "mug", "--model", "model", "-f", "new.yaml"
    )
    assert code == 0, output
    assert ("takes days on a CPU" in output) is slow
    assert load(bench.folder / "new.yaml").spec.training.resolution is None


def test_model_is_asked_for_until_there_is_one(bench: Bench, photos: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ("--class", "mug", "--identifier", "sks", "--output", "out", "--file", "new.yaml")
    process = bench.start("init", photos.name, *arguments, stdin=theirs)
    os.close(theirs)
    for answer in ("owner/name", "hf://owner/name"):
        os.write(ours, f"{answer}\n".encode())
        time.sleep(0.1)
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, output
    assert "write hf://owner/name" in output
    assert load(bench.folder / "new.yaml").spec.model.source == "hf://owner/name"


def test_few_photos_are_warned_of(bench: Bench, photos: Path) -> None:
    (photos / "a.jpg").unlink()
    code, output = bench.dreambooth("init", photos.name, "--class", "mug", "--force")
    assert code == 0
    assert "holds 2 photos; 3 to 5 are usual" in output
    (photos / "b.HEIC").unlink()
    _, output = bench.dreambooth("init", photos.name, "--class", "mug", "--force")
    assert "with 1 photo\n" in output
    assert "holds 1 photo;" in output
