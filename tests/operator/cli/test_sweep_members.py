"""From `--set` to jobs: combinations, names and errors."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.load import load, parse
from dreambooth_api.schema.base import JobName
from dreambooth_operator.cli.sweep.members import (
    MAX_MEMBERS,
    SETTINGS_ANNOTATION,
    SWEEP_LABEL,
    expand,
    member_name,
    parse_values,
)
from dreambooth_operator.errors import UserError

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


@pytest.fixture(scope="module")
def job() -> DreamBoothJob:
    return load(QUICKSTART)


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("training.steps=400", "training.steps", [400]),
        ("spec.training.steps=200, 400", "training.steps", [200, 400]),
        ("training.learningRate=1e-4,5e-5", "training.learningRate", [1e-4, 5e-5]),
        ("prior.enabled=true,false", "prior.enabled", [True, False]),
        ("training.lora.targets=[a,b],[a]", "training.lora.targets", [["a", "b"], ["a"]]),
        ("prior.prompt='a {class}, alone'", "prior.prompt", ["a {class}, alone"]),
        ("subjects[0].images=s3://b/a,s3://b/b", "subjects[0].images", ["s3://b/a", "s3://b/b"]),
        ("training.ema={enabled: true}", "training.ema", [{"enabled": True}]),
        ("prior.prompt=a=b", "prior.prompt", ["a=b"]),
    ],
)  # fmt: skip
def test_values_are_those_of_a_yaml_list(text: str, field: str, values: list[Any]) -> None:
    assert parse_values(text) == (field, values)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["training.steps"], "--set training.steps: use FIELD=VALUE,VALUE, such as"),
        (["subjects.0.weight=1"], "or subjects[0].weight=1,2"),
        (["=1"], "use FIELD=VALUE,VALUE"),
        (["training..steps=1"], "use FIELD=VALUE,VALUE"),
        (["training.steps="], "name at least one value"),
        (["training.steps=1,2,1"], "1 is given twice"),
        (["training.steps=1", "spec.training.steps=2"], "--set training.steps: is given twice"),
        (["prior.prompt=a {class}"], "--set prior.prompt=a {class}: not a list of YAML values"),
        (["training.steps=1]"], "not a list of YAML values"),
        (["training.steps=-1,200"], r"spec.training.steps: must be at least 1 (got -1)"),
        (["training.steps=many"], r"spec.training.steps: must be a whole number (got 'many')"),
        (
            ["training.stepz=1"],
            "spec.training.stepz: unknown field; did you mean spec.training.steps?",
        ),
        (["training.steps.more=1"], "spec.training.steps: has no field more"),
        (["subjects[3].images=s3://b/a"], "spec.subjects[3]: there is no such item"),
        (["prior[0]=1"], "spec.prior[0]: there is no such item"),
        (["output[0]=1"], "spec.output[0]: there is no such item"),
        ([f"training.seed={','.join(map(str, range(MAX_MEMBERS + 1)))}"], "201 combinations"),
    ],
)
def test_what_is_wrong_is_named(job: DreamBoothJob, texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        expand(job, texts)


def test_a_problem_of_one_combination_names_the_combination(job: DreamBoothJob) -> None:
    with pytest.raises(UserError) as error:
        expand(job, ["training.globalBatch=4,3", "runtime.nodes=1,2"])
    [line] = str(error.value).splitlines()[1:]
    assert "spec.training.globalBatch" in line
    assert line.endswith("(with training.globalBatch=3 runtime.nodes=2)")


def test_the_last_field_varies_fastest_and_the_job_stays_as_it_is(job: DreamBoothJob) -> None:
    before = copy.deepcopy(job)
    texts = ["training.learningRate=1e-4,5e-5", "training.lora.rank=8,32", "training.seed=7"]
    members = expand(job, texts)
    assert [str(each) for each in members] == [
        "training.learningRate=0.0001 training.lora.rank=8 training.seed=7",
        "training.learningRate=0.0001 training.lora.rank=32 training.seed=7",
        "training.learningRate=5e-05 training.lora.rank=8 training.seed=7",
        "training.learningRate=5e-05 training.lora.rank=32 training.seed=7",
    ]
    assert [each.job.spec.training.lora.rank for each in members] == [8, 32, 8, 32]
    assert {each.job.spec.training.seed for each in members} == {7}
    assert job == before
    # The class images are made once for all of them, and the results lie side by side.
    assert all(each.job.spec.prior == job.spec.prior for each in members)
    assert all(each.job.spec.output == job.spec.output for each in members)
    for each in members:
        assert each.job.metadata.labels == {SWEEP_LABEL: "quickstart"}
        settings = json.loads(each.job.metadata.annotations[SETTINGS_ANNOTATION])
        assert settings == each.settings


def test_labels_and_annotations_of_the_job_are_kept(job: DreamBoothJob) -> None:
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document["metadata"] |= {"labels": {"team": "a"}, "annotations": {"note": "b"}}
    [member] = expand(parse(document), ["training.seed=1"])
    assert member.job.metadata.labels["team"] == "a"
    assert member.job.metadata.annotations["note"] == "b"


def test_a_name_says_what_is_set_and_does_not_depend_on_the_rest_of_the_sweep(
    job: DreamBoothJob,
) -> None:
    few = expand(job, ["training.lora.rank=8", "training.seed=1"])
    many = expand(job, ["training.seed=1,2", "training.lora.rank=4,8"])
    assert few[0].name in {each.name for each in many}
    assert re.fullmatch(r"quickstart-8-1-[0-9a-f]{8}", few[0].name)
    assert len({each.name for each in many}) == 4


def test_a_long_name_leaves_room_for_the_values() -> None:
    name = member_name("smiling-mug-on-eight-nodes-of-the-cluster", {"training.steps": 400})
    assert re.fullmatch(r"smiling-mug-on-eight-nodes-400-[0-9a-f]{8}", name)


fields = st.from_regex(r"[a-z][A-Za-z]{0,20}(\.[a-z][A-Za-z]{0,20}){0,3}", fullmatch=True)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(
    base=st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True),
    settings=st.dictionaries(fields, values | st.lists(values, max_size=3), min_size=1, max_size=4),
)
def test_every_name_is_that_of_a_job(base: str, settings: dict[str, Any]) -> None:
    name = member_name(base, settings)
    assert TypeAdapter(JobName).validate_python(name) == name
    assert name == member_name(base, dict(reversed(settings.items())))


@given(st.lists(st.dictionaries(fields, values, min_size=1, max_size=2), max_size=20))
def test_other_values_have_another_name(every: list[dict[str, Any]]) -> None:
    texts = {json.dumps(settings, sort_keys=True) for settings in every}
    base = "a-name-that-is-as-long-as-it-may-be-0123"
    assert len({member_name(base, settings) for settings in every}) == len(texts)
