"""The paper's protocol on a result: which images are generated, kept, and scored."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dreambooth_api.contract.progress import Images
from dreambooth_api.contract.scores import ScoreName, Scores
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.subject import Subject
from dreambooth_api.parsing.load import dump
from dreambooth_trainer.evaluation.image_generator import ImageGenerator
from dreambooth_trainer.evaluation.protocol import (
    LIVE_TEMPLATES,
    OBJECT_TEMPLATES,
    protocol_prompts,
)
from dreambooth_trainer.export.lora import export_lora
from dreambooth_trainer.models.families.stable_diffusion import StableDiffusion
from dreambooth_trainer.process.errors import BadModelError
from dreambooth_trainer.process.signals import StoppedError, StopSignal
from dreambooth_trainer.process.topology import Topology
from dreambooth_trainer.run.evaluate import evaluate
from dreambooth_trainer.telemetry.telemetry import Telemetry
from tests.corpus.encoders import write_encoder
from tests.trainer.export.test_export import ABOUT, adapt
from tests.trainer.ranks import run_ranks

PROMPTS = ["a sks mug on the beach", "a red sks mug"]


def test_a_protocol_has_25_prompts_of_its_kind() -> None:
    assert len(set(OBJECT_TEMPLATES)) == len(set(LIVE_TEMPLATES)) == 25
    mug = Subject(identifier="sks", class_noun="coffee mug", images="file:///none")
    dog = Subject(identifier="sks", class_noun="corgi dog", images="file:///none")
    assert "a sks corgi dog wearing sunglasses" in protocol_prompts(dog)
    assert "a sks coffee mug on a wooden table" in protocol_prompts(mug)
    assert not any("wearing" in prompt for prompt in protocol_prompts(mug))


@pytest.fixture
def job(tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> DreamBoothJob:
    """A job whose result is there: the random model again."""
    monkeypatch.setattr("dreambooth_trainer.run.evaluate.protocol_prompts", lambda _: PROMPTS)
    (tmp_path / "images").mkdir()
    for level in range(3):
        Image.new("RGB", (64, 80), (80 * level, 0, 0)).save(tmp_path / f"images/{level}.png")
    encoders = {
        role: str(write_encoder(name, tmp_path / role))
        for role, name in {"image": "DINOv2", "text": "CLIP"}.items()
    }
    subject = {"identifier": "sks", "classNoun": "mug", "images": f"file://{tmp_path}/images"}
    made = DreamBoothJob.model_validate(
        {
            "apiVersion": "dreambooth.dev/v1alpha1",
            "kind": "DreamBoothJob",
            "metadata": {"name": "mug"},
            "spec": {
                "model": {"source": str(random_model)},
                "subjects": [subject],
                "output": f"file://{tmp_path}/out",
                "training": {"resolution": 64, "steps": 9},
                "samples": {"steps": 1},
                "evaluation": {"encoders": encoders, "count": 4},
                "runtime": {"gpusPerNode": 0},
            },
        }
    )
    shutil.copytree(random_model, Path(output_layout(made).export.removeprefix("file://")))
    return made


def run(job: DreamBoothJob, stop: StopSignal | None = None) -> Scores:
    telemetry = Telemetry(job, Topology())
    evaluate(job, Topology(), stop or StopSignal(), telemetry, "dreambooth")
    seen = telemetry.progress.snapshot().protocol  # of base model and result
    assert seen == Images(done=2 * 12, total=2 * 12)
    assert "24 images: for each subject" in telemetry.notes[0]
    layout = output_layout(job)
    path = Path(layout.protocol_scores("dreambooth").removeprefix("file://"))
    return Scores.decode(path.read_bytes())


@pytest.mark.parametrize("clip_skip", [None, 2])
def test_a_result_is_scored_once_and_its_images_are_kept(
    job: DreamBoothJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip_skip: int | None
) -> None:
    job.spec.model.clip_skip = clip_skip
    generate, calls = ImageGenerator.generate, []

    def counted(self: ImageGenerator, requests: Any) -> Any:
        calls.append(len(requests))
        return generate(self, requests)

    monkeypatch.setattr(ImageGenerator, "generate", counted)
    scores = run(job)
    # The result is the base model here: its images are those that are there already.
    assert calls == [8, 4]
    (subject,) = scores.subjects
    assert (scores.step, scores.exported_step) == (9, 9)
    assert (subject.counts.subject, subject.counts.class_images) == (8, 4)
    assert [each.prompt for each in subject.prompts] == PROMPTS
    change = subject.scores[ScoreName.SUBJECT_SIMILARITY].change
    assert change is not None
    assert change.value == 0
    assert run(job) == scores
    assert calls == [8, 4]
    # An image that was lost, as when an evaluation is stopped: its pass is repeated.
    next((tmp_path / "out").rglob("0-01-3.png")).unlink()
    assert run(job) == scores
    assert calls == [8, 4, 8]


def test_the_images_of_a_lora_are_those_of_its_base_with_the_adapters(
    job: DreamBoothJob, random_pipeline: Any
) -> None:
    layout = output_layout(job)
    export = Path(layout.export.removeprefix("file://"))
    shutil.rmtree(export)
    adapt(random_pipeline.unet, ["to_q", "to_v"], 1)
    export_lora(StableDiffusion(random_pipeline, ""), export, ABOUT)
    scores = run(job)
    change = scores.subjects[0].scores[ScoreName.SUBJECT_SIMILARITY].change
    assert change is not None
    assert change.value != 0
    images = Path(layout.evaluation("dreambooth").removeprefix("file://"))
    base, trained = (folder for folder in images.iterdir() if folder.is_dir())
    names = {file.name for file in base.iterdir()}
    assert names == {file.name for file in trained.iterdir()}
    assert all((base / name).read_bytes() != (trained / name).read_bytes() for name in names)


def few_prompts() -> None:
    """Patches the protocol in a rank."""
    protocol: Any = importlib.import_module("dreambooth_trainer.run.evaluate")
    protocol.protocol_prompts = lambda _: PROMPTS


def test_two_ranks_give_the_images_and_scores_of_one(job: DreamBoothJob, tmp_path: Path) -> None:
    found, layout = [], output_layout(job)
    folder = Path(layout.evaluation("dreambooth").removeprefix("file://"))
    for nodes in (1, 2):
        ended = run_ranks(
            yaml.safe_load(dump(job)),
            tmp_path / f"{nodes}-ranks",
            nodes=nodes,
            prepare=few_prompts,
            arguments=("--protocol", "dreambooth"),
        )
        assert set(ended.codes) == {0}, "\n".join(ended.logs)
        found.append({file.name: file.read_bytes() for file in folder.rglob("*.*")})
        shutil.rmtree(folder)
    alone, two = found
    assert len([name for name in alone if name.endswith(".png")]) == 12
    assert "scores.json" in alone
    assert two == alone


def test_an_evaluation_that_is_stopped_writes_no_scores(job: DreamBoothJob, tmp_path: Path) -> None:
    stop = StopSignal()
    stop.requested = True
    with pytest.raises(StoppedError):
        run(job, stop)
    assert not list((tmp_path / "out").rglob("scores.json"))


def test_the_images_of_each_pass_are_kept_when_an_evaluation_is_stopped(
    job: DreamBoothJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, stop = ImageGenerator.generate, StopSignal()

    def stopped_later(self: ImageGenerator, requests: Any) -> Any:
        images = generate(self, requests)
        stop.requested = True
        return images

    monkeypatch.setattr(ImageGenerator, "generate", stopped_later)
    with pytest.raises(StoppedError):
        run(job, stop)
    assert len(list((tmp_path / "out/default").rglob("0-*.png"))) == 8


def test_a_job_without_a_result_is_refused(job: DreamBoothJob, tmp_path: Path) -> None:
    shutil.rmtree(output_layout(job).export.removeprefix("file://"))
    job.spec.model.source = "/models/moved"  # which would be told otherwise
    with pytest.raises(BadModelError, match="has no exported model yet; wait"):
        run(job)


def test_a_result_that_is_not_complete_is_refused_before_images_are_generated(
    job: DreamBoothJob, tmp_path: Path
) -> None:
    (Path(output_layout(job).export.removeprefix("file://")) / "model_index.json").unlink()
    with pytest.raises(BadModelError, match="is not complete: it has neither"):
        run(job)
    assert not list((tmp_path / "out").rglob("*.png"))
