"""batch/v1 Jobs: what the API server adds to a new one, what it refuses, and what stays fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.cluster.apiserver.errors import (
    Cause,
    bad_value,
    not_allowed,
    not_supported,
    required,
)
from tests.cluster.apiserver.metadata import LABEL, label_faults
from tests.cluster.apiserver.resources import Json

UID_LABEL = "batch.kubernetes.io/controller-uid"
NAME_LABEL = "batch.kubernetes.io/job-name"
MUTABLE_WHILE_SUSPENDED = ("nodeSelector", "tolerations", "affinity", "schedulingGates")
"""Fields of the pod template's spec that a suspended Job lets change."""
RESOURCES_MUTABLE_SINCE = "1.36"
"""From this version on, the resources of a suspended Job's containers may change as well."""
FIXED = (
    "completions",
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
    "successPolicy",
)


def prepare(content: Json) -> None:
    """Give a new Job its selector, and its pods the labels that the selector finds."""
    metadata, spec = content["metadata"], content["spec"]
    if not spec.get("manualSelector"):
        uid, name = metadata["uid"], metadata["name"]
        labels = {UID_LABEL: uid, NAME_LABEL: name, "controller-uid": uid, "job-name": name}
        pod = spec["template"].setdefault("metadata", {})
        pod["labels"] = (pod.get("labels") or {}) | labels
        spec["selector"] = {"matchLabels": {UID_LABEL: uid}}
    # The Job is labelled as its template where it has no labels of its own (a rule of old).
    if not metadata.get("labels"):
        metadata["labels"] = dict(spec["template"]["metadata"].get("labels") or {})


def faults(content: Json) -> Iterator[Cause]:
    """What is wrong with a new Job."""
    spec = content["spec"]
    for field in ("parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished"):
        if (spec.get(field) or 0) < 0:
            yield bad_value(f"spec.{field}", spec[field], "must be greater than or equal to 0")
    if spec["completionMode"] == "Indexed":
        yield from _wrong_index(content)
    elif spec["completionMode"] != "NonIndexed":
        supported = ["NonIndexed", "Indexed"]
        yield not_supported("spec.completionMode", spec["completionMode"], supported)
    labels = spec["template"].get("metadata", {}).get("labels") or {}
    for key, value in labels.items():
        yield from label_faults("spec.template.labels", key, value)
    yield from _wrong_policies(spec)


def _wrong_index(content: Json) -> Iterator[Cause]:
    spec, name = content["spec"], content["metadata"]["name"]
    completions = spec.get("completions")
    if completions is None:
        yield required("spec.completions", "when completion mode is Indexed")
        return
    hostname = f"{name}-{max(completions - 1, 0)}"
    if len(hostname) > 63 or not LABEL.fullmatch(hostname):
        message = "will not able to create pod with invalid DNS label"
        yield bad_value("metadata.name", name, f"{message}: {hostname}")


def _wrong_policies(spec: Json) -> Iterator[Cause]:
    restart = spec["template"]["spec"].get("restartPolicy")
    policy = spec.get("podFailurePolicy")
    if restart not in ("Never", "OnFailure"):
        valid = 'valid values: "OnFailure", "Never"'
        yield required("spec.template.spec.restartPolicy", valid)
    elif policy and restart != "Never":
        message = 'only "Never" is supported when podFailurePolicy is specified'
        yield bad_value("spec.template.spec.restartPolicy", restart, message)
    names = [one.get("name") for one in spec["template"]["spec"].get("containers") or []]
    for index, rule in enumerate((policy or {}).get("rules") or []):
        yield from _wrong_rule(rule, names, f"spec.podFailurePolicy.rules[{index}]")
    if policy and spec["podReplacementPolicy"] != "Failed":
        yield not_supported("spec.podReplacementPolicy", spec["podReplacementPolicy"], ["Failed"])


def _wrong_rule(rule: Json, containers: list[Any], path: str) -> Iterator[Cause]:
    actions = ["Count", "FailIndex", "FailJob", "Ignore"]
    if rule.get("action") not in actions:
        yield not_supported(f"{path}.action", rule.get("action", ""), actions)
    codes = rule.get("onExitCodes")
    if not codes and not rule.get("onPodConditions"):
        message = "specifying one of OnExitCodes and OnPodConditions is required"
        yield Cause(path, "FieldValueInvalid", f"Invalid value: {message}")
    if not codes:
        return
    name = codes.get("containerName")
    if name is not None and name not in containers:
        message = "must be one of the container or initContainer names in the pod template"
        yield bad_value(f"{path}.onExitCodes.containerName", name, message)
    values = codes.get("values") or []
    if not values:
        yield bad_value(f"{path}.onExitCodes.values", [], "at least one value is required")
    if codes.get("operator") == "In" and 0 in values:
        place = f"{path}.onExitCodes.values[{values.index(0)}]"
        yield bad_value(place, 0, "must not be 0 for the In operator")
    if values != sorted(set(values)):
        yield bad_value(f"{path}.onExitCodes.values", values, "must be ordered")


def update_faults(old: Json, new: Json, version: str) -> Iterator[Cause]:
    """What of a Job an update may not change, on a server of a version."""
    before, after = old["spec"], new["spec"]
    for field in FIXED:
        elastic = field == "completions" and _resized_together(before, after)
        if before.get(field) != after.get(field) and not elastic:
            tandem = field == "completions" and before["completionMode"] == "Indexed"
            rule = "can only be modified in tandem with spec.parallelism"
            yield bad_value(
                f"spec.{field}", after.get(field), rule if tandem else "field is immutable"
            )
    if before.get("selector") != after.get("selector"):
        yield bad_value("spec.selector", after.get("selector"), "field is immutable")
    if _fixed_template(old, before, version) != _fixed_template(old, after, version):
        yield bad_value("spec.template", after["template"], "field is immutable")
    if old.get("status", {}).get("completionTime") and before["suspend"] != after["suspend"]:
        yield not_allowed("spec.suspend", "a finished Job cannot be suspended or resumed")


def _resized_together(before: Json, after: Json) -> bool:
    """An elastic Indexed Job: completions may change together with parallelism."""
    same = after.get("completions") == after.get("parallelism")
    return before["completionMode"] == "Indexed" and same


def _fixed_template(old: Json, spec: Json, version: str) -> Json:
    """The pod template without its mutable fields.

    Scheduling fields and resources may change while a Job is suspended and has no active pods.
    """
    template: Json = spec["template"]
    status = old.get("status") or {}
    if not old["spec"].get("suspend") or status.get("active"):
        return template
    metadata = {
        key: value
        for key, value in template.get("metadata", {}).items()
        if key not in ("labels", "annotations")
    }
    pod = {
        key: value for key, value in template["spec"].items() if key not in MUTABLE_WHILE_SUSPENDED
    }
    if version >= RESOURCES_MUTABLE_SINCE:
        pod["containers"] = [
            {key: value for key, value in container.items() if key != "resources"}
            for container in pod.get("containers") or []
        ]
    return {"metadata": metadata, "spec": pod}
