"""Does the prior loss do its work? The quickstart's job with it and without it."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.trainer.ranks import run_folder, run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"


def measure(folder: Path) -> list[tuple[str, list[float], float | None]]:
    """Rows of the table.

    Gap closed: how far the subject's images have come from the base model's similarity towards
    that of real images. Leak: what plain class images have come towards the subject with the
    prior loss, over what they come without it.
    """
    with_prior = _scores(folder, "with-prior", enabled=True)
    without = _scores(folder, "without-prior", enabled=False)
    subject = with_prior["subjectSimilarity"]
    open_gap = 1 - _rise(subject) / (subject["real"] - subject["before"])
    leak = _rise(with_prior["classSimilarity"]) / _rise(without["classSimilarity"])
    return [
        ("gap to the real images that stays open", [open_gap], 0.5),
        ("class drift with prior loss / without", [leak], 1 / 3),
    ]


def _rise(score: dict[str, float]) -> float:
    return score["after"] - score["before"]


def _scores(folder: Path, name: str, *, enabled: bool) -> dict[str, Any]:
    job = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    spec = job["spec"]
    job["metadata"] |= {"namespace": "default", "uid": name}
    spec["model"]["source"] = str(EXAMPLES / "tiny-sd" / "model")
    spec["evaluation"]["model"] = str(EXAMPLES / "tiny-sd" / "clip")
    spec["evaluation"]["images"] = _local(spec["evaluation"]["images"])
    spec["subjects"][0]["images"] = _local(spec["subjects"][0]["images"])
    spec["output"] = f"file://{folder}/quality"
    spec["prior"]["enabled"] = enabled
    ended = run_ranks(job, folder / name, nodes=2, timeout=900)
    assert set(ended.codes) == {0}, "\n".join(ended.logs)
    scores: dict[str, Any] = json.loads((run_folder(job) / "scores.json").read_text())
    entry: dict[str, Any] = scores["subjects"][0]
    return entry


def _local(uri: str) -> str:
    """The demo's s3://dreambooth/subjects/... where it lies in this repository."""
    return f"file://{EXAMPLES}/{uri.removeprefix('s3://dreambooth/')}"
