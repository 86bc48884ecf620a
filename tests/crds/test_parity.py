"""The models and the CRD agree: what one refuses, the other refuses, for the same field."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dreambooth_api
from dreambooth_api.models.job import resolved
from dreambooth_api.parsing import yamljson

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
VALID = [*sorted(HERE.glob("jobs/valid/*.yaml")), *sorted((REPOSITORY / "examples").glob("*.yaml"))]
INVALID = sorted(HERE.glob("jobs/invalid/*.yaml"))
EXPECTED = re.compile(r"^# expect: (.+)$", re.MULTILINE)

Admit = Callable[..., list[str]]


def document(path: Path) -> Any:
    (found,) = yamljson.documents(path.read_text())
    return found


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_job_is_accepted_by_both(path: Path, admit: Admit) -> None:
    dreambooth_api.load(path)
    assert admit(document(path)) == []


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_job_is_refused_with_its_message(path: Path) -> None:
    with pytest.raises(dreambooth_api.InvalidJobError) as caught:
        dreambooth_api.load(path)
    assert caught.value.messages == EXPECTED.findall(path.read_text())


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_job_is_refused_by_the_crd_for_the_same_fields(path: Path, admit: Admit) -> None:
    expected = EXPECTED.findall(path.read_text())
    assert sorted(admit(document(path))) == sorted(line.partition(": ")[0] for line in expected)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_both_fill_in_the_same_defaults(path: Path, store: Callable[[Any], Any]) -> None:
    from_crd = store(document(path))["spec"]
    from_models = resolved(dreambooth_api.load(path))["spec"]
    for spec in (from_crd, from_models):
        del spec["runtime"]["podOverrides"]  # the models keep it as it was given
        spec["runtime"]["resources"] = as_text(spec["runtime"]["resources"])
    assert from_models == from_crd


def test_nulls_in_overrides_of_pods_are_absent() -> None:
    job = document(HERE / "jobs" / "valid" / "minimal.yaml")
    terms = [{"matchExpressions": [{"key": "gpu", "operator": "Exists", "values": None}]}]
    volume = {"name": "cache", "emptyDir": None, "csi": {"driver": "nfs", "readOnly": None}}
    job["spec"]["runtime"] = {
        "podOverrides": {
            "metadata": {"labels": {"team": None}},
            "spec": {"affinity": {"terms": terms, "podAffinity": None}, "volumes": [volume]},
        }
    }
    assert dreambooth_api.parse(job).spec.runtime.pod_overrides == {
        "metadata": {"labels": {}},
        "spec": {
            "affinity": {"terms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]},
            "volumes": [{"name": "cache", "csi": {"driver": "nfs"}}],
        },
    }


def as_text(resources: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The API server stores 4 and "4" as they were given."""
    return {kind: {k: str(v) for k, v in given.items()} for kind, given in resources.items()}
