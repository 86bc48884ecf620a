"""The evaluator: which images are generated and compared, and what is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from prometheus_client import generate_latest
from torch import Tensor

from dreambooth_api.contract.scores import Encoder, ScoreName, Scores, ScoreValues
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.evaluator import Evaluator
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.errors import FencedError
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.resolved import resolve

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class FakeGenerator:
    """Stands in for encoder and generator: a prompt's first colour is that of its image."""

    record = Encoder(name="colours", source="/nowhere", sha256="0" * 64)

    def __init__(self, obedient: bool) -> None:
        self._obedient = obedient
        self.requests: list[ImageRequest] = []

    def generate(self, requests: list[ImageRequest]) -> list[Image.Image]:
        self.requests += requests
        colours = [colour_of(r.prompt) if self._obedient else "green" for r in requests]
        return [Image.new("RGB", (4, 4), COLOURS[colour]) for colour in colours]

    def images(self, images: list[Image.Image]) -> Tensor:
        return torch.tensor([each.getpixel((0, 0)) for each in images]) / 255.0

    def texts(self, texts: list[str]) -> Tensor:
        assert not any("sks" in text for text in texts)
        return torch.tensor([COLOURS[colour_of(text)] for text in texts]) / 255.0


def colour_of(text: str) -> str:
    return next((colour for colour in COLOURS if colour in text), "green")


def attempt_with(folder: Path, spec: dict[str, Any]) -> Attempt:
    job = resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "/nowhere"},
                "output": f"file://{folder}/out",
                "training": {"resolution": 64},
                "evaluation": {"count": 5},
                "runtime": {"gpusPerNode": 0},
                **spec,
            },
        }
    )
    storage = Storage(StorageSettings(None, None, "auto"))
    telemetry = Telemetry(job, Topology())
    return Attempt(job, Ranks(Topology()), storage, telemetry, StopSignal(), torch.device("cpu"))


def subject(folder: Path, identifier: str, noun: str, colour: str) -> dict[str, str]:
    (folder / identifier).mkdir()
    for size in (80, 81):
        Image.new("RGB", (80, size), COLOURS[colour]).save(folder / identifier / f"{size}.png")
    images = f"file://{folder}/{identifier}"
    return {"identifier": identifier, "classNoun": noun, "images": images}


def evaluate(
    attempt: Attempt,
    painter: Any,
    step: int = 0,
    check_owner: Callable[[], None] = lambda: None,
) -> Scores:
    settings = attempt.job.spec.evaluation
    assert settings
    evaluator = Evaluator(attempt, settings, painter, painter, painter, check_owner)
    return evaluator.score(step)


@pytest.mark.parametrize(("obedient", "score"), [(True, 1.0), (False, 0.0)])
def test_a_model_that_ignores_a_sample_prompt_scores_less(
    tmp_path: Path, obedient: bool, score: float
) -> None:
    painter = FakeGenerator(obedient)
    attempt = attempt_with(
        tmp_path,
        {
            "subjects": [subject(tmp_path, "sks", "mug", "red")],
            "samples": {"prompts": ["sks mug that is red", "blue sks mug"]},
        },
    )
    (scores,) = evaluate(attempt, painter).subjects
    base = scores.scores[ScoreName.PROMPT_SIMILARITY].base
    assert base
    assert base.value == score
    assert [each.prompt for each in scores.prompts] == ["sks mug that is red", "blue sks mug"]
    of_prompts = [r for r in painter.requests if colour_of(r.prompt) != "green"]
    assert len(of_prompts) == 6
    assert scores.counts.per_prompt == 3


def test_subjects_are_compared_with_their_own_images_alone(tmp_path: Path) -> None:
    first, second = (
        subject(tmp_path, "sks", "red mug", "red"),
        subject(tmp_path, "zwx", "blue cat", "blue"),
    )
    shutil.copytree(tmp_path / "sks", tmp_path / "held-out")
    second["evaluationImages"] = f"file://{tmp_path}/held-out"
    attempt = attempt_with(tmp_path, {"subjects": [first, second]})
    scores = evaluate(attempt, FakeGenerator(True))
    similarity = [each.scores[ScoreName.SUBJECT_SIMILARITY] for each in scores.subjects]
    nearest = [each.scores[ScoreName.MEMORIZATION] for each in scores.subjects]
    # The second one's held-out images are, wrongly, of the first.
    assert [each.base and each.base.value for each in similarity] == [1, 0]
    assert [each.base and each.base.value for each in nearest] == [1, 1]


def test_a_later_step_is_compared_with_the_base_model(tmp_path: Path) -> None:
    attempt = attempt_with(tmp_path, {"subjects": [subject(tmp_path, "sks", "mug", "green")]})
    evaluate(attempt, FakeGenerator(True))
    evaluate(attempt, FakeGenerator(True), step=7)
    shown = generate_latest(attempt.telemetry.metrics.registry).decode()
    (line,) = [
        line
        for line in shown.splitlines()
        if line.startswith("dreambooth_trainer_score{") and 'score="subjectSimilarity"' in line
    ]
    assert 'subject="sks"' in line
    assert line.endswith(" 1.0")
    written = Scores.decode(attempt.storage.read(attempt.layout.scores_at(7)))
    assert (written.step, written.exported_step, written.last_step) == (7, None, None)
    (scores,) = written.subjects
    values = scores.scores[ScoreName.SUBJECT_SIMILARITY]
    assert values.trained
    assert values.change
    assert values.change.value == 0
    # The images of this generator differ by their prompts alone.
    assert scores.scores[ScoreName.CLASS_FIDELITY] == ScoreValues()
    drift = scores.scores[ScoreName.CLASS_DRIFT]
    assert drift.trained
    assert drift.trained.value == 0


@pytest.mark.parametrize("step", [0, 7])
def test_an_attempt_that_was_superseded_writes_no_scores(tmp_path: Path, step: int) -> None:
    attempt = attempt_with(tmp_path, {"subjects": [subject(tmp_path, "sks", "mug", "green")]})
    painter = FakeGenerator(True)

    def check_owner() -> None:
        assert painter.requests, "generating takes long: checked before, it may not hold after"
        raise FencedError("attempt 1 owns the output")

    with pytest.raises(FencedError):
        evaluate(attempt, painter, step, check_owner)
    assert not list((tmp_path / "out").rglob("*"))
