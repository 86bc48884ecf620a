"""`dreambooth run` on the example with `captions: auto`: shortened, with tiny-sd's captioner."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
OWN = {"1.txt": "sks mug, as its owner sees it"}


@dataclass(frozen=True)
class Finished:
    """A run that ended well, and its subject's folder."""

    photos: Path
    before: dict[str, bytes]
    run: Path

    def read(self, name: str) -> Any:
        return json.loads((self.run / name).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("captions")
    photos = folder / "photos"
    photos.mkdir()
    for path in (EXAMPLES / "subjects" / "smiling-mug").glob("*.jpg"):
        shutil.copy(path, photos)
    for name, text in OWN.items():
        (photos / name).write_text(text)
    before = contents(photos)
    (folder / "job.yaml").write_text(yaml.safe_dump(job(photos, folder / "results")))
    command = [sys.executable, "-c", "from dreambooth_operator.cli.main import main; main()"]
    command += ["run", "-f", "job.yaml", "--state", "state"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    [run] = (folder / "results").glob("*/*/*/captions.json")
    return Finished(photos, before, run.parent)


def job(photos: Path, output: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((EXAMPLES / "auto-captions.yaml").read_text())
    spec = made["spec"]
    spec["model"]["source"] = str(EXAMPLES / "tiny-sd" / "model")
    spec["captioning"]["model"]["source"] = str(EXAMPLES / "tiny-sd" / "captioner")
    spec["subjects"][0]["images"] = f"file://{photos}"
    spec["output"] = f"file://{output}"
    spec["training"] |= {"steps": 2, "globalBatch": 2, "resolution": 64, "precision": "fp32"}
    spec["prior"] = {"count": 2, "steps": 2}
    spec["samples"] = {"count": 1, "steps": 2}
    spec["runtime"] = {"gpusPerNode": 0}
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_users_folder_is_left_as_it_was(finished: Finished) -> None:
    assert contents(finished.photos) == finished.before


def test_what_the_model_wrote_names_the_subject_and_is_trained_on(finished: Finished) -> None:
    written = {
        each["of"]: each["lines"] for each in finished.read("captions.json")["answers"].values()
    }
    record = finished.read("run.json")
    captions = record["captions"]["sks"]
    assert captions.keys() == {f"{number}.jpg" for number in range(5)}
    assert captions.pop("1.jpg") == OWN["1.txt"]
    assert "sks/1.jpg: caption" not in written
    for name, caption in captions.items():
        assert written[f"sks/{name}: caption"] == [caption]
        assert "sks mug" in caption
    assert "sks: captions" in record["hashes"]


def test_the_photos_were_looked_at(finished: Finished) -> None:
    written = {each["of"] for each in finished.read("captions.json")["answers"].values()}
    assert {f"sks/{number}.jpg: photo" for number in range(5)} | {"sks: duplicates"} <= written


def test_the_report_shows_the_captions(finished: Finished) -> None:
    page = (finished.run / "report.html").read_text()
    for caption in finished.read("run.json")["captions"]["sks"].values():
        assert caption in page
