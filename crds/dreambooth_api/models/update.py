"""What an update may change of a job: the transition rules of the CRD.

A job's hyper-parameters are fixed when it is created, so that every attempt trains the same thing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dreambooth_api.models.pods.runtime import Runtime
from dreambooth_api.models.spec import Spec
from dreambooth_api.schema.base import ApiModel

ALWAYS = {"suspend", "runtime.ttlSecondsAfterFinished"}
"""Fields of the spec that can be changed at any time."""

# What decides where, on how many nodes and from which image the pods run: an attempt that starts
# later resumes from the checkpoint on other nodes, while a running one could not change them.
WHILE_SUSPENDED = {
    "runtime.nodes",
    "runtime.gpusPerNode",
    "runtime.processesPerNode",
    "runtime.image",
    "runtime.imagePullPolicy",
    "runtime.imagePullSecrets",
    "runtime.resources",
    "runtime.nodeSelector",
    "runtime.tolerations",
    "runtime.queue",
    "runtime.preflight",
    "runtime.ports",
}
"""Fields of the spec that can be changed while the job is suspended."""

# A map list equals itself in any order. But training depends on the order of subjects and of merged
# adapters, a variable can refer to those before it, and init containers run one after the other.
ORDER = {
    "model": "{new}.mergedAdapters.map(a, a.source) == {old}.mergedAdapters.map(a, a.source)",
    "subjects": "{new}.map(s, s.identifier) == {old}.map(s, s.identifier)",
    "runtime.podOverrides": (
        "{new}.spec.initContainers.map(c, c.name) == {old}.spec.initContainers.map(c, c.name)"
        " && {new}.spec.containers.all(n, {old}.spec.containers.all(o, !has(n.env) || !has(o.env)"
        " || n.env.map(e, e.name) == o.env.map(e, e.name)))"
    ),
}
"""Conditions under which the lists of a field kept their order."""

FIXED = "cannot be changed after the job was created; create a new DreamBoothJob"
SUSPEND_FIRST = "can be changed only while the job is suspended; set spec.suspend to true first"


@dataclass(frozen=True)
class Transition:
    """A field that an update must leave as it is (x-kubernetes-validations, oldSelf)."""

    path: str
    """The field below the spec, for example `runtime.nodes`."""

    always_set: bool
    """Whether a stored object has it in any case: required, or with a default."""

    @property
    def while_suspended(self) -> bool:
        """Whether it can be changed while the job is suspended (spec.suspend)."""
        return self.path in WHILE_SUSPENDED

    def as_validation(self) -> dict[str, str]:
        """The transition as an entry of the spec's x-kubernetes-validations."""
        new, old = f"self.{self.path}", f"oldSelf.{self.path}"
        same = f"{new} == {old}"
        if not self.always_set:
            same = f"has({new}) == has({old}) && (!has({new}) || {same})"
        if self.path in ORDER:
            same = f"{same} && {ORDER[self.path].format(new=new, old=old)}"
        return {
            "rule": f"oldSelf.suspend || ({same})" if self.while_suspended else same,
            "message": SUSPEND_FIRST if self.while_suspended else FIXED,
            "fieldPath": f".{self.path}",
        }


def transitions() -> list[Transition]:
    """The fields of the spec that an update must leave as they are: one rule for each.

    One rule for the whole spec could not name the field that was changed.
    """
    # The runtime field by field, as some of it may change; every other part of the spec as a whole.
    fields = [*_fields(Spec, ""), *_fields(Runtime, "runtime.")]
    return [field for field in fields if field.path not in ALWAYS | {"runtime"}]


def _fields(model: type[ApiModel], prefix: str) -> Iterator[Transition]:
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        always_set = field.is_required() or default is not None
        yield Transition(f"{prefix}{field.alias or name}", always_set)
