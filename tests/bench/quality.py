"""Does the prior loss do its work? The quickstart's job with it and without it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dreambooth_api.contract.scores import ScoreName, Scores, ScoreValues
from tests.bench import class_experiment
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
    subject = with_prior[ScoreName.SUBJECT_SIMILARITY]
    assert subject.real
    assert subject.base
    open_gap = 1 - _rise(subject) / (subject.real.value - subject.base.value)
    leak = _rise(with_prior[ScoreName.CLASS_SIMILARITY]) / _rise(
        without[ScoreName.CLASS_SIMILARITY]
    )
    yield ratio("gap to the real images that stays open", [open_gap], at_most=0.5)
    yield ratio("class drift with prior loss / without", [leak], at_most=1 / 3)


def _rise(score: ScoreValues) -> float:
    assert score.base
    assert score.trained
    return score.trained.value - score.base.value


def _scores(
    folder: Path, name: str, short: bool, *, enabled: bool
) -> Mapping[ScoreName, ScoreValues]:
    job = yaml.safe_load((EXAMPLES / "quickstart.yaml").read_text())
    spec = job["spec"]
    job["metadata"] |= {"namespace": "default", "uid": name}
    spec["model"]["source"] = str(EXAMPLES / "tiny-sd" / "model")
    spec["evaluation"]["encoders"] = {
        role: str(EXAMPLES / "tiny-sd" / name)
        for role, name in (("image", "dino"), ("text", "clip"))
    }
    for field in ("images", "evaluationImages"):
        spec["subjects"][0][field] = _local(spec["subjects"][0][field])
    spec["output"] = f"file://{folder}/quality"
    spec["prior"]["enabled"] = enabled
    if short:
        shorten(spec)
    ended = run_ranks(job, folder / name, nodes=1 if short else 2, timeout=900)
    assert set(ended.codes) == {0}, f"exit codes {ended.codes}\n" + "\n".join(ended.logs)
    return Scores.decode((run_folder(job) / "scores.json").read_bytes()).subjects[0].scores


def shorten(spec: dict[str, Any]) -> None:
    """Let the quickstart's job take seconds."""
    spec["training"]["steps"] = 2
    spec["prior"] |= {"count": 2, "steps": 2}
    spec["samples"] |= {"count": 2, "steps": 2, "prompts": spec["samples"]["prompts"][:1]}
    spec["evaluation"] |= {"count": 2}


def _local(uri: str) -> str:
    """The demo's s3://dreambooth/subjects/... where it lies in this repository."""
    return f"file://{EXAMPLES}/{uri.removeprefix('s3://dreambooth/')}"


if __name__ == "__main__":
    class_experiment.main()
