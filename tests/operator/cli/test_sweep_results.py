"""The jobs of a sweep: read from a list, and in the order in which a run chooses a checkpoint."""

import json
from pathlib import Path

from dreambooth_api.contract.scores import (
    Counts,
    Encoder,
    Encoders,
    Estimate,
    Scores,
    ScoreValues,
    Selection,
    SubjectScores,
)
from dreambooth_operator.cli.sweep.cluster import read_jobs
from dreambooth_operator.cli.sweep.results import Result, best_first

ENCODER = Encoder(name="CLIP", source="/models/clip", sha256="0" * 64)
COUNTS = Counts(subject=2, class_images=2, per_prompt=2, references=2, training=2)


def result(name: str, score: float, fidelity: float, limit: float | None = 0.4) -> Result:
    """A job that ended with what its checkpoint was chosen by."""
    estimate = Estimate(value=fidelity, low=fidelity - 0.1, high=fidelity + 0.1)
    scores = Scores(
        step=9,
        selection=Selection(score=score, min_class_fidelity=limit),
        encoders=Encoders(image=ENCODER, text=ENCODER),
        subjects=[
            SubjectScores(
                identifier="sks",
                class_noun="mug",
                counts=COUNTS,
                scores={"classFidelity": ScoreValues(trained=estimate)},
            ),
        ],
    )
    return Result(name, {}, "Succeeded", scores=scores)


def test_jobs_are_in_the_order_of_what_their_checkpoints_were_chosen_by() -> None:
    lost, less = result("lost", 0.9, 0.1), result("less", 0.5, 0.3)
    good, better, none = (
        result("good", 0.2, 0.4),
        result("better", 0.3, 0.9),
        Result("none", {}, ""),
    )
    assert best_first([none, lost, good, less, better]) == [better, good, less, lost, none]


def test_a_job_that_does_not_keep_the_class_has_the_limit_of_the_others() -> None:
    destroyed, kept = result("destroyed", 0.9, -0.5, limit=None), result("kept", 0.5, 0.39)
    assert best_first([destroyed, kept]) == [kept, destroyed]
    assert best_first([kept, destroyed, result("alone", 0.95, 0.2, limit=None)])[0] is kept


def test_jobs_of_a_cluster_that_began_before_a_rule_are_read(tmp_path: Path) -> None:
    job = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "mug"},
        "spec": {
            "model": {"source": "hf://owner/model"},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
            "output": "s3://b/out",
            "prior": {"prompts": ["a {classNoun}"]},
        },
    }
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"items": [job]}))
    assert [each.metadata.name for each in read_jobs(file)] == ["mug"]
