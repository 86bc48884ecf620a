"""What is scored: images of the sample prompts against these prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreambooth_api.models.subject import Subject
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.attempt import Attempt
from dreambooth_trainer.evaluation.evaluator import Evaluator
from dreambooth_trainer.evaluation.scores import prompts_of, without_identifiers
from dreambooth_trainer.models.generate import ImageRequest
from dreambooth_trainer.process.distributed import Ranks
from dreambooth_trainer.process.signals import StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.trainer.resolved import resolve

SKS = Subject(identifier="sks", class_noun="mug", images="file:///none")


def test_a_subject_is_scored_on_the_prompts_that_name_it() -> None:
    prompts = ["sks mug on the moon", "a dog", "a zwx, and a sks mug", "sksy mug"]
    assert prompts_of(SKS, prompts) == ["sks mug on the moon", "a zwx, and a sks mug"]
    assert prompts_of(SKS, ["a dog"]) == ["a photo of sks mug"]


def test_clip_reads_prompts_without_identifiers() -> None:
    text = without_identifiers("a zwx cat, by a sks mug", ["sks", "zwx"])
    assert text == "a cat, by a mug"


class Colours:
    """Stands in for CLIP and the generator: each prompt has a direction of its own."""

    def __init__(self, obedient: bool) -> None:
        self._obedient = obedient
        self.requests: list[ImageRequest] = []

    def generate(self, requests: list[ImageRequest]) -> list[Image.Image]:
        self.requests += requests
        reds = [255 if "moon" in request.prompt and self._obedient else 0 for request in requests]
        return [Image.new("RGB", (4, 4), (red, 0, 0)) for red in reds]

    def images(self, images: list[Image.Image]) -> Tensor:
        return torch.tensor([[1.0, 0.0] if i.getpixel((0, 0)) == (255, 0, 0) else [0.0, 1.0]
                             for i in images])  # fmt: skip

    def texts(self, texts: list[str]) -> Tensor:
        assert not any("sks" in text for text in texts)
        return torch.tensor([[1.0, 0.0] if "moon" in text else [0.0, 1.0] for text in texts])


@pytest.mark.parametrize(("obedient", "score"), [(True, 1.0), (False, 0.5)])
def test_a_model_that_ignores_a_sample_prompt_scores_less(
    tmp_path: Path, obedient: bool, score: float
) -> None:
    fake: Any = Colours(obedient)
    Image.new("RGB", (80, 80)).save(tmp_path / "0.png")
    subject = {"identifier": "sks", "classNoun": "mug", "images": f"file://{tmp_path}"}
    job = resolve(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": "/nowhere"},
                "subjects": [subject],
                "output": f"file://{tmp_path}",
                "training": {"resolution": 64},
                "samples": {"prompts": ["sks mug on the moon", "sks mug in a box"]},
                "evaluation": {"model": "/nowhere", "count": 5},
                "runtime": {"gpusPerNode": 0},
            },
        }
    )
    assert job.spec.evaluation
    storage = Storage(StorageSettings(None, None, "auto"))
    telemetry = Telemetry(job, Topology())
    attempt = Attempt(job, Ranks(Topology()), storage, telemetry, StopSignal(), torch.device("cpu"))
    Evaluator(attempt, job.spec.evaluation, fake, fake).score(0)
    (scores,) = json.loads(storage.read(attempt.layout.scores_at(0)))
    assert scores["prompt_similarity"] == score
    of_prompts = [r for r in fake.requests if "moon" in r.prompt or "box" in r.prompt]
    assert len(of_prompts) == 6
