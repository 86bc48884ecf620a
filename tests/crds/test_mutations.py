"""The models and the CRD also agree on jobs that nobody thought of."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambooth_api import InvalidJobError, parse
from dreambooth_api.parsing import yamljson

Admit = Callable[..., list[str]]
Place = tuple[str | int, ...]

VALID = [
    next(yamljson.documents(path.read_text()))
    for path in sorted((Path(__file__).parent / "jobs" / "valid").glob("*.yaml"))
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.sampled_from([0.5, 1.0, 2.0**31, 512, 10**7, "", "4", "16Gi", "sks", "dog", "a dog\n"]),
    st.sampled_from(["s3://b", "file:///a", "hf://a/b", "s3://m.ckpt", "lora", "full", "fp16"]),
    st.sampled_from(["Exists", "NoExecute", "{class}", "\u00a0", "é", "off", {}, [], {"a": "b"}]),
    st.text(max_size=3),
)


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Every value of the spec, by its path."""
    if path:
        yield path
    items: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        items = dict(enumerate(value))
    for key, item in items.items():
        yield from places(item, (*path, key))


def change(job: Any, path: Place, value: Any) -> None:
    for key in path[:-1]:
        job = job[key]
    job[path[-1]] = value


@st.composite
def mutated_jobs(draw: st.DrawFn) -> Any:
    """A valid job with one to three values replaced, removed, renamed or taken from another job."""
    job = deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(job["spec"]))))
        match draw(st.sampled_from(["replace", "rename", "borrow"])):
            case "replace":
                change(job["spec"], path, deepcopy(draw(VALUES)))
            case "rename":
                change(job["spec"], (*path[:-1], *draw(names(path))), deepcopy(draw(VALUES)))
            case "borrow":
                part = draw(st.sampled_from(["training", "runtime", "prior", "samples", "model"]))
                other = draw(st.sampled_from(VALID))["spec"].get(part)
                job["spec"][part] = deepcopy(other)
    return job


def names(path: Place) -> st.SearchStrategy[Place]:
    """Another key beside a value; items of a list keep their place."""
    if isinstance(path[-1], int):
        return st.just(path[-1:])
    return st.sampled_from([(f"{path[-1]}x",), ("globalBatch",), ("variant",), ("name",)])


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(job=mutated_jobs())
def test_mutated_job_is_accepted_by_both_or_by_neither(job: Any, admit: Admit) -> None:
    try:
        parse(deepcopy(job))
        problems = []
    except InvalidJobError as error:
        problems = error.messages
    refused = admit(job)
    assert bool(problems) == bool(refused), (problems, refused)
