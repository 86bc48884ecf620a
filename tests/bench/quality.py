"""Does the prior loss do its work? The quickstart's job with it and without it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.bench.report import Row, ratio
from tests.trainer.ranks import run_folder, run_ranks

EXAMPLES = Path(__file__).parents[2] / "examples"


def measure(folder: Path, short: bool) -> Iterator[Row]:
    """What the subject gains, and what other mugs lose.

    Gap closed: how far the subject's images have come from the base model's similarity towards
    that of real images. Leak: what plain class images have come towards the subject with the
    prior loss, over what they come without it.
    """
    with_prior = _scores(folder, "with-prior", short, enabled=True)
    without = _scores(folder, "without-prior", short, enabled=False)
    subject = with_prior["subjectSimilarity"]
    open_gap = 1 - _rise(subject) / (subject["real"] - subject["before"])
    leak = _rise(with_prior["classSimilarity"]) / _rise(without["classSimilarity"])
    yield ratio("gap to the real images that stays open", [open_gap], at_most=0.5)
    yield ratio("class drift with prior loss / without", [leak], at_most=1 / 3)


def _rise(score: dict[str, float]) -> float:
    return score["after"] - score["before"]


def _scores(folder: Path, name: str, short: bool, *, enabled: bool) -> dict[str, Any]:
    job = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    spec = job["spec"]
    job["metadata"] |= {"namespace": "default", "uid": name}
    spec["model"]["source"] = str(EXAMPLES / "tiny-sd" / "model")
    spec["evaluation"]["model"] = str(EXAMPLES / "tiny-sd" / "clip")
    spec["evaluation"]["images"] = _local(spec["evaluation"]["images"])
    spec["subjects"][0]["images"] = _local(spec["subjects"][0]["images"])
    spec["output"] = f"file://{folder}/quality"
    spec["prior"]["enabled"] = enabled
    if short:
        shorten(spec)
    ended = run_ranks(job, folder / name, nodes=1 if short else 2, timeout=900)
    assert set(ended.codes) == {0}, f"exit codes {ended.codes}\n" + "\n".join(ended.logs)
    scores: dict[str, Any] = json.loads((run_folder(job) / "scores.json").read_text())
    entry: dict[str, Any] = scores["subjects"][0]
    return entry


def shorten(spec: dict[str, Any]) -> None:
    """Let the quickstart's job take seconds."""
    spec["training"]["steps"] = 2
    spec["prior"] |= {"count": 2, "steps": 2}
    spec["samples"] |= {"count": 2, "steps": 2, "prompts": spec["samples"]["prompts"][:1]}
    spec["evaluation"] |= {"count": 2}


def _local(uri: str) -> str:
    """The demo's s3://dreambooth/subjects/... where it lies in this repository."""
    return f"file://{EXAMPLES}/{uri.removeprefix('s3://dreambooth/')}"
