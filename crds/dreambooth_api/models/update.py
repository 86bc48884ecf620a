"""What of a job may change after it was created: as transition rules of the CRD, and in Python."""

from collections.abc import Iterator
from dataclasses import dataclass

from dreambooth_api.models.base import ApiModel
from dreambooth_api.models.job import DreamBoothJob, Spec
from dreambooth_api.models.runtime import Runtime

ALWAYS = {"suspend", "ttlSecondsAfterFinished"}
"""Fields of spec.runtime that can be changed at any time."""

WHILE_SUSPENDED = {
    "nodes",
    "gpusPerNode",
    "processesPerNode",
    "resources",
    "nodeSelector",
    "tolerations",
    "queue",
}
"""Fields of spec.runtime that can be changed while the job is suspended."""

FIXED = "cannot be changed after the job was created; create a new DreamBoothJob"
SUSPEND_FIRST = "can be changed only while the job is suspended; set runtime.suspend to true first"


@dataclass(frozen=True)
class Transition:
    """A field that an update must leave as it is."""

    field: str
    """Name of the field in its model."""

    required: bool
    """Whether a stored object always has it: required, or with a default."""

    suspendable: bool
    """Whether it can be changed while the job is suspended."""

    @property
    def message(self) -> str:
        """Why an update is refused, and what to do."""
        return SUSPEND_FIRST if self.suspendable else FIXED

    def as_validation(self) -> dict[str, str]:
        """The transition as an entry of x-kubernetes-validations."""
        new, old = f"self.{self.field}", f"oldSelf.{self.field}"
        same = f"{new} == {old}"
        if not self.required:
            same = f"has({new}) == has({old}) && (!has({new}) || {same})"
        rule = f"oldSelf.suspend || ({same})" if self.suspendable else same
        return {"rule": rule, "message": self.message, "fieldPath": f".{self.field}"}


def transitions(model: type[ApiModel]) -> list[Transition]:
    """The fields of a model that an update must leave as they are."""
    if model not in (Spec, Runtime):
        return []
    free = {"runtime"} if model is Spec else ALWAYS
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return [
        Transition(
            alias,
            required=field.is_required()
            or field.get_default(call_default_factory=True) is not None,
            suspendable=model is Runtime and alias in WHILE_SUSPENDED,
        )
        for alias, field in fields.items()
        if alias not in free
    ]


def check_update(old: DreamBoothJob, new: DreamBoothJob) -> list[str]:
    """What an update changes that must not change, one sentence for each field; empty when it is
    fine.
    """
    suspended = old.spec.runtime.suspend
    return [
        *_changes("spec", old.spec, new.spec, suspended),
        *_changes("spec.runtime", old.spec.runtime, new.spec.runtime, suspended),
    ]


def _changes(path: str, old: ApiModel, new: ApiModel, suspended: bool) -> Iterator[str]:
    before, after = (m.model_dump(mode="json", exclude_none=True) for m in (old, new))
    for transition in transitions(type(old)):
        changed = before.get(transition.field) != after.get(transition.field)
        if changed and not (transition.suspendable and suspended):
            yield f"{path}.{transition.field}: {transition.message}"
