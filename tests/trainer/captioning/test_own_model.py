"""FLUX.2 dev's text encoder is a vision-language model: it describes images, and no other does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.captioning import DEFAULT_MODEL, CaptioningModel
from dreambooth_api.models.job import DreamBoothJob, output_layout
from dreambooth_api.models.model import Model
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.captioning.models.own import is_own
from dreambooth_trainer.preflight.check import check_job
from dreambooth_trainer.preflight.report import PreflightReport
from dreambooth_trainer.resume.run_record import write_run_record
from tests.corpus.families import flux2
from tests.trainer.ranks import run_folder, run_ranks

MakeJob = Callable[..., dict[str, Any]]
FIELD = "spec.captioning.model.source"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux2")
    flux2.build(folder)
    return folder


def described(job: MakeJob, base: Path, **captioning: Any) -> dict[str, Any]:
    made = job(
        "own",
        model={"source": str(base)},
        training={"steps": 1, "precision": "fp32", "method": "lora", "lora": {"rank": 2}},
        captioning={"maxTokens": 32, **captioning},
        samples={"count": 1},
        prior={"enabled": False},
    )
    made["spec"]["subjects"][0]["captions"] = "auto"
    return made


def check(made: dict[str, Any]) -> PreflightReport:
    return check_job(DreamBoothJob.model_validate(made), Storage(StorageSettings()))


def chosen(report: PreflightReport) -> str | None:
    assert report.job is not None
    assert report.job.spec.captioning is not None
    asked = report.job.spec.captioning.model
    return asked.source if asked else None


def test_it_describes_the_images_of_its_own_training(
    job: MakeJob, model: Path, tmp_path: Path
) -> None:
    made = described(job, model)
    ended = run_ranks(made, tmp_path / "ranks")
    assert ended.codes == [0], "\n".join(ended.logs)
    record = json.loads((run_folder(made) / "run.json").read_text())
    assert record["job"]["spec"]["captioning"]["model"]["source"] == str(model)
    assert len(record["captions"]["sks"]) == 4
    assert f"{FIELD}: the text encoder of {model}" in "\n".join(record["notes"])


def test_it_is_asked_where_it_can_be(job: MakeJob, model: Path, tmp_path: Path) -> None:
    report = check(described(job, model))
    assert (report.errors, chosen(report)) == ([], str(model))
    other = str(tmp_path / "other")
    assert chosen(check(described(job, model, model={"source": other}))) == other
    quantized = described(job, model)
    quantized["spec"]["model"]["quantization"] = {"textEncoders": "int8"}
    assert chosen(check(quantized)) is None
    blind = tmp_path / "blind"
    shutil.copytree(model, blind)
    (blind / "tokenizer" / "preprocessor_config.json").unlink()
    assert chosen(check(described(job, blind))) is None


def test_a_run_that_began_with_another_default_keeps_it(job: MakeJob, model: Path) -> None:
    made = described(job, model)
    resolved = check(made).job
    assert resolved is not None
    assert resolved.spec.captioning is not None
    without = {"captioning": resolved.spec.captioning.model_copy(update={"model": None})}
    begun = resolved.model_copy(update={"spec": resolved.spec.model_copy(update=without)})
    layout = output_layout(begun)
    with Storage(StorageSettings()) as storage:
        write_run_record(
            storage, layout, begun, attempt=0, world_size=1, global_batch=1, hashes={}, seeds={}
        )
        storage.write(layout.captions, b"{}")
    assert chosen(check(made)) == DEFAULT_MODEL


def test_the_source_of_a_base_model_means_its_own_at_any_revision() -> None:
    base = Model(source="hf://owner/flux", revision="abc")
    assert is_own(CaptioningModel(source=base.source), base)
    assert is_own(CaptioningModel(source=base.source, revision="abc"), base)
    assert not is_own(CaptioningModel(source=base.source, revision="other"), base)
    assert not is_own(CaptioningModel(), base)


def test_a_model_of_text_is_refused(job: MakeJob, random_model: Path) -> None:
    made = described(job, random_model, model={"source": str(random_model)})
    [error] = [str(each) for each in check(made).errors]
    assert error.startswith(f"{FIELD}: {random_model} is the base model, and its text encoder")
