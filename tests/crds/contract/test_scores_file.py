"""The file of scores: what is read back, and what a change counts for."""

import json
from typing import Any

import pytest

from dreambooth_api.contract.scores import (
    DEFINITIONS,
    MAX_BYTES,
    Estimate,
    ScoreName,
    Scores,
    ScoreValues,
    UnreadableScoresError,
    classify,
    difference,
)
from tests.crds.contract.example_scores import about, example_scores


def test_every_score_is_defined() -> None:
    assert set(DEFINITIONS) == set(ScoreName)
    titles = [definition.title for definition in DEFINITIONS.values()]
    assert len(set(titles)) == len(titles)


def test_scores_are_read_as_they_were_written() -> None:
    assert Scores.decode(example_scores().encode()) == example_scores()


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(example_scores().encode()) | fields).encode()


def test_scores_and_fields_of_a_newer_trainer_are_ignored() -> None:
    document = json.loads(example_scores().encode())
    document["subjects"][0]["scores"]["beauty"] = {"base": {"value": 1}}
    document["mood"] = "good"
    assert Scores.decode(json.dumps(document).encode()) == example_scores()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"no JSON", "the file: "),
        (changed(version=2), "the scores have version 2 of their format"),
        (changed(step=-1), "step: "),
        (changed(subjects=[]), "subjects: "),
        (b" " * (MAX_BYTES + 1), "over the limit"),
    ],
)
def test_other_files_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(UnreadableScoresError, match=complaint):
        Scores.decode(data)


def test_a_difference_of_two_runs_is_less_certain_than_either() -> None:
    change = difference(about(0.5), about(0.2))
    assert change.value == pytest.approx(0.3)
    assert change.high - change.value == pytest.approx(0.05 * 2**0.5)


@pytest.mark.parametrize(
    ("name", "before", "after", "change"),
    [
        (ScoreName.SUBJECT_SIMILARITY, 0.2, 0.7, "better"),
        (ScoreName.SUBJECT_SIMILARITY, 0.7, 0.2, "worse"),
        (ScoreName.SUBJECT_SIMILARITY, 0.7, 0.72, "none"),
        (ScoreName.CLASS_DRIFT, 0.0, 0.4, "worse"),
        (ScoreName.CLASS_FIDELITY, 1.0, 0.4, "worse"),
        (ScoreName.MEMORIZATION, 0.1, 0.7, "better"),  # real images: 0.8
        (ScoreName.MEMORIZATION, 0.7, 0.99, "worse"),
    ],
)
def test_a_change_beyond_the_noise_has_a_direction(
    name: ScoreName, before: float, after: float, change: str
) -> None:
    values = ScoreValues(base=about(before), trained=about(after), real=about(0.8))
    assert classify(name, difference(about(after), about(before)), values) == change


def test_few_images_show_no_change() -> None:
    scores = example_scores().subjects[0]
    changed = [name for name in scores.scores if scores.change(name) in ("better", "worse")]
    assert changed
    few = scores.model_copy(update={"counts": scores.counts.model_copy(update={"subject": 3})})
    assert {few.change(name) for name in changed} == {"unclear"}


def test_the_change_from_the_same_seeds_counts_where_it_is_known() -> None:
    scores = example_scores().subjects[0]
    values = ScoreValues(
        base=about(0.5), trained=about(0.52), change=Estimate(value=0.02, low=0.01, high=0.03)
    )
    scores = scores.model_copy(update={"scores": {ScoreName.SUBJECT_SIMILARITY: values}})
    assert scores.change(ScoreName.SUBJECT_SIMILARITY) == "better"
    assert scores.change(ScoreName.CLASS_DRIFT) is None
