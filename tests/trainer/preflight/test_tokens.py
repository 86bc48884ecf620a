"""Words that cannot be learned are refused before a GPU is taken."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_storage import Storage, StorageSettings
from dreambooth_trainer.models.model_config import read_model_config
from dreambooth_trainer.models.tokens.names import LearnedWord
from dreambooth_trainer.preflight.check import check_job
from dreambooth_trainer.preflight.memory.stages import checkpoint_bytes, measure_stages
from dreambooth_trainer.preflight.report import PreflightReport
from tests.trainer.conftest import MakeJob
from tests.trainer.families.conftest import build

PRIOR = {"enabled": False}


def examine(config: dict[str, Any]) -> PreflightReport:
    return check_job(DreamBoothJob.model_validate(config), Storage(StorageSettings()))


@pytest.fixture
def learning(job: MakeJob, subject: Path) -> MakeJob:
    """Makes jobs whose identifiers, given with their tokens, are learned."""

    def make(words: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
        shared = {"classNoun": "a", "images": f"file://{subject}"}
        subjects = [{"identifier": word, "token": token, **shared} for word, token in words.items()]
        return job(subjects=subjects, **{"training": {"method": "lora"}, **changes})

    return make


def test_a_job_that_learns_words_is_ready(learning: MakeJob) -> None:
    report = examine(learning({"sks": {"vectors": 2, "initializer": "a b"}, "<other>": {}}))
    assert report.errors == []
    assert not [each for each in report.warnings if "token" in each]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            {"b": {}},
            "spec.subjects[0].identifier: b is a token of the model, and cannot be learned",
        ),
        (
            {"sks": {"vectors": 2}, "SKS_1": {}},
            "spec.subjects: sks_1 is an identifier, and a vector of another one; rename one",
        ),
        (
            {"sks": {"vectors": 2}, "SKS_2": {}},
            "spec.subjects: sks_2 would be read as one more vector of the token sks; rename one",
        ),
        (
            {"sks": {"initializer": "\N{SNOWMAN}"}},
            "spec.subjects[0].token.initializer: the model does not know",
        ),
    ],
)
def test_words_that_the_model_cannot_learn(
    learning: MakeJob, words: dict[str, dict[str, Any]], expected: str
) -> None:
    [error] = examine(learning(words)).errors
    assert str(error).startswith(expected)


def test_an_initializer_in_fragments_is_warned_of(learning: MakeJob) -> None:
    warnings = examine(learning({"sks": {"initializer": "abc"}})).warnings
    assert any("'abc' is 3 fragments to the model" in each for each in warnings)


def test_a_family_of_other_text_encoders_is_refused(learning: MakeJob) -> None:
    config = learning({"sks": {}}, model={"source": str(build("z_image"))})
    [error] = examine(config).errors
    assert "the text encoders of Z-Image learn no tokens" in str(error)


def test_the_estimate_counts_what_is_learned(job: MakeJob, random_model: Path) -> None:
    training = {"method": "textual-inversion", "precision": "bf16"}
    token = {"identifier": "sks", "classNoun": "a", "images": "file:///i", "token": {"vectors": 8}}
    config = read_model_config(
        DreamBoothJob.model_validate(job()).spec.model, Storage(StorageSettings())
    )
    assert config is not None
    report = examine(job(training=training, prior=PRIOR, subjects=[token]))
    assert report.job is not None
    config = replace(config, words=(LearnedWord("sks", "a", 8),))
    # A row of 16 numbers in fp32 for each vector: the weight, and AdamW's two moments.
    assert checkpoint_bytes(config, report.job.spec.training) == 8 * 16 * 4 * 3
    stages = measure_stages(report.job, config, local_batch=1, ranks=1)
    assert stages["a training step"] > stages["loading the model"]
