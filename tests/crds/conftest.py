"""The API server's admission of custom resources, from the generated CRD alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.apiserver import admission

CRD = Path(__file__).parents[2] / "crds" / "dreambooth.dev_dreamboothjobs.yaml"

Schema = dict[str, Any]
Admit = Callable[..., list[str]]


@pytest.fixture(scope="session")
def schema() -> Schema:
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def store(schema: Schema) -> Callable[[Any], Any]:
    """An object as the API server stores it, with all defaults."""
    return lambda job: as_stored(schema, job)


@pytest.fixture(scope="session")
def admit(schema: Schema) -> Admit:
    """Admit an object: the fields that it is refused for, empty when it is accepted.

    The rules are not asked about an object that has the wrong form, as the models do not either.
    """

    def admitted(job: Any, old: Any = None) -> list[str]:
        if not isinstance(job, dict):
            return ["job"]
        new = as_stored(schema, job)
        missing = [key for key in ("apiVersion", "kind", "metadata") if key not in new]
        wrong = missing + wrong_kind(new) + wrong_form(schema, new, job)
        before = as_stored(schema, old) if old else None
        return wrong or [fault.field for fault in admission.broken_rules(schema, new, before)]

    return admitted


def as_stored(schema: Schema, job: Any) -> Any:
    return admission.with_defaults(schema, admission.as_json(job))


def wrong_kind(job: Any) -> list[str]:
    """An API server finds the resource by these, so another value never reaches the schema."""
    wanted = {"apiVersion": "dreambooth.dev/v1alpha1", "kind": "DreamBoothJob"}
    return [key for key, value in wanted.items() if key in job and job[key] != value]


def wrong_form(schema: Schema, job: Any, given: Any) -> list[str]:
    """Wrong values of a job as it is stored, and unknown fields that were given, null or not.

    What is in a value of a wrong type is not looked at.
    """
    faults = admission.wrong_values(schema, job)
    values = [*{fault.field: None for fault in faults if fault.field != "<nil>"}]
    _, unknown = admission.pruned(schema, given)
    inside = tuple(f"{field}." for field in values)
    return [field for field in unknown if not field.startswith(inside)] + values
