"""Fields that do not exist are answered with the one that was meant."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from dreambooth_api import InvalidJobError, parse
from dreambooth_api.codegen.schema import job_schema
from dreambooth_api.parsing.suggestions.other_trainers.advice import ADVICE, NO_COUNTERPART
from dreambooth_api.parsing.suggestions.other_trainers.fields import FIELDS
from dreambooth_api.parsing.suggestions.other_trainers.values import (
    LIST_ADVICE,
    NUMBERS,
    OFF,
    VALUE_ADVICE,
    VALUES,
)

PATH = re.compile(r"(?<![\w/])[a-z]\w*(?:\[\])?(?:\.[a-zA-Z]\w*(?:\[\])?)+(?!/)")


def job(path: str, value: Any = 1) -> dict[str, Any]:
    """A job with one more field below spec; its parents are made where they are missing."""
    made: dict[str, Any] = {
        "apiVersion": "dreambooth.dev/v1alpha1",
        "kind": "DreamBoothJob",
        "metadata": {"name": "mug"},
        "spec": {
            "model": {"source": "hf://owner/model"},
            "subjects": [{"identifier": "sks", "classNoun": "mug", "images": "s3://b/mug"}],
            "output": "s3://b/out",
        },
    }
    *parents, name = path.split(".")
    place: Any = made["spec"]
    for parent in parents:
        place = place["subjects"][0] if parent == "subjects" else place.setdefault(parent, {})
    place[name] = value
    return made


def answer(path: str) -> str:
    with pytest.raises(InvalidJobError) as caught:
        parse(job(path))
    shown = f"spec.{path}".replace("spec.subjects.", "spec.subjects[0].")
    (message,) = [each for each in caught.value.messages if each.startswith(f"{shown}: ")]
    return message.removeprefix(f"{shown}: unknown field; ")


def paths(prefix: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, field in schema.get("properties", {}).items():
        item = field.get("items")
        yield f"{prefix}{name}", field
        if item:
            yield f"{prefix}{name}[]", item
        yield from paths(f"{prefix}{name}{'[]' if item else ''}.", item or field)


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return dict(paths("", job_schema()["properties"]["spec"]))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("training.text_encoder_learning_rate", "training.textEncoder.learningRate"),
        ("training.textEncoderLearningRate", "training.textEncoder.learningRate"),
        ("training.text_encoder_lr", "training.textEncoder.learningRate"),
        ("training.caption_tag_dropout_rate", "training.tagDropout"),
        ("training.lora.r", "training.lora.rank"),
        ("training.lora.lora_alpha", "training.lora.alpha"),
        ("training.loraRank", "training.lora.rank"),
        ("training.network_dim", "training.lora.rank"),
        ("training.batchSize", "training.perDeviceBatch"),
        ("training.ema_decay", "training.ema.decay"),
        ("training.prior_loss_weight", "prior.weight"),
        ("prior.lossWeight", "prior.weight"),
        ("subjects.trigger_word", "subjects[0].identifier"),
        ("model.name_or_path", "model.source"),
        ("checkpoints.everySteps", "checkpoints.every"),
        ("checkpoints.limit", "checkpoints.keep"),
        ("samples.sample_every", "samples.every"),
        ("seed", "training.seed"),
        ("training.dtype", "training.precision"),
        ("model.dtype", "training.precision"),
        ("model.checkpoint", "model.source"),
        ("model.qtype", "model.quantization.denoiser"),
        ("training.optimizer.type", "training.optimizer.name"),
        ("training.schedule.type", "training.schedule.name"),
        ("training.textEncoder.lr", "training.textEncoder.learningRate"),
        ("evaluation.images", "subjects[0].evaluationImages"),
        ("storage.endpoint", "storage.endpointURL"),
        ("samples.num_inference_steps", "samples.steps"),
        ("train", "training"),
        ("training.random_flip", "training.flip"),
        ("training.weigtDecay", "training.optimizer.weightDecay"),
    ],
)
def test_the_field_that_was_meant_is_named(written: str, meant: str) -> None:
    assert answer(written) == f"did you mean spec.{meant}?"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("training.blocks_to_swap", "set runtime.offload.fraction, the fraction of the blocks"),
        ("training.enable_bucket", "training.crop: none"),
        ("training.optimizer.betas", "training.optimizer.beta1 and training.optimizer.beta2"),
        ("runtime.memory", "runtime.resources: {limits: {memory: ...}}"),
        ("export.pushToHub.token", "no job holds a secret"),
        ("subjects.num_repeats", "subjects[].weight"),
        ("training.textEncoder.train", "set training.textEncoder.method to lora or full"),
        ("training.use_8bit_adam", "set training.optimizer.name to adamw-8bit"),
        ("training.huber_c", "it has no counterpart, so remove it"),
    ],
)
def test_what_means_something_else_is_told(written: str, words: str) -> None:
    assert words in answer(written)


@pytest.mark.parametrize(
    "written", ["model.type", "model.metrics", "samples.mode", "training.dreambooth"]
)
def test_a_name_that_nothing_is_like_is_no_guess(written: str) -> None:
    """`type` is a field of adapters, and means nothing of the kind in a model."""
    expected = "no other has a similar name, so look for it in docs/reference.md, or remove it"
    assert answer(written) == expected


def test_a_file_of_another_trainer_is_known() -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse({"job": "extension", "config": {"name": "mug", "process": []}})
    told = "unknown field; files of other trainers are not read, and docs/job.md"
    assert next(each for each in caught.value.messages if told in each).startswith("job: ")


def test_every_field_of_the_tables_exists(known: dict[str, Any]) -> None:
    assert {path for path in FIELDS.values() if path not in known} == set()
    named = {path for told in ADVICE.values() for path in PATH.findall(told)}
    assert named - set(known) == set()
    assert len(named) > 30


def test_every_choice_of_the_tables_is_one(known: dict[str, Any]) -> None:
    tables = [VALUES, VALUE_ADVICE, LIST_ADVICE, OFF, NUMBERS]
    assert {path for table in tables for path in table} - set(known) == set()
    for path, meant in VALUES.items():
        choices = set(known[path]["enum"])
        assert set(meant.values()) <= choices, path
        assert not set(meant) & choices, path
    for path, field in NUMBERS.items():
        assert f"{path}.{field}" in known
    told = [*LIST_ADVICE.values(), *OFF.values()]
    told += [each for by_value in VALUE_ADVICE.values() for each in by_value.values()]
    assert {path for each in told for path in PATH.findall(each)} - set(known) == set()


def test_the_tables_say_one_thing_of_a_name_that_can_be_asked_for(known: dict[str, Any]) -> None:
    names = [*FIELDS, *ADVICE, *NO_COUNTERPART]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"([a-z]+\.)?[a-z0-9]+", name)] == []
