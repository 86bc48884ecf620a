"""From a job and `--set field=values` to one job for each combination of values. Pure.

A member of a sweep is a job like any other. Its name depends on the job's name and on the values
that it sets, so the same command means the same members, also after values were added to it.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing import yamljson
from dreambooth_api.parsing.load import InvalidJobError, parse
from dreambooth_api.schema.base import GROUP
from dreambooth_operator.errors import UserError

SWEEP_LABEL = f"{GROUP}/sweep"
SETTINGS_ANNOTATION = f"{GROUP}/sweep-settings"
"""The values that a member sets, as a JSON object by field."""
MAX_MEMBERS = 200
MAX_NAME = 40
"""Characters of a job's name, as `JobName` allows."""
DIGEST = 8
"""Characters of a name that tell members apart whose other characters are the same."""

Settings = dict[str, Any]
"""Values by field, such as {"training.steps": 400}. Fields are those below the spec."""

_STEP = re.compile(r"([A-Za-z0-9]+)|\[(\d+)\]")
"""A field's name, or the index of an item."""
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9]*(\[\d+\]|\.[A-Za-z][A-Za-z0-9]*)*")


@dataclass(frozen=True)
class Member:
    """One job of a sweep, and the values that make it what it is."""

    settings: Settings
    job: DreamBoothJob

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.job.metadata.name

    def __str__(self) -> str:
        return describe(self.settings)


def parse_values(text: str) -> tuple[str, list[Any]]:
    """Read one `--set`: a field of the spec, and the values that it takes.

    The values are the items of a YAML list, so that `[a,b],[a]` are two lists.

    Raises:
        UserError: It has another form.
    """
    field, equals, values = text.partition("=")
    field = field.strip().removeprefix("spec.")
    if not equals or not _PATH.fullmatch(field):
        raise UserError(
            f"--set {text}: use FIELD=VALUE,VALUE, such as training.steps=200,400 or"
            " subjects[0].weight=1,2"
        )
    try:
        (items,) = yamljson.documents(f"[{values}]")
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(
            f"--set {text}: not a list of YAML values: {problem}; put text with commas,"
            " brackets or colons in quotes"
        ) from error
    if not items:
        raise UserError(f"--set {text}: name at least one value")
    for index, item in enumerate(items):
        if _canonical(item) in map(_canonical, items[:index]):
            raise UserError(f"--set {text}: {show(item)} is given twice; keep one")
    return field, items


def expand(job: DreamBoothJob, texts: Sequence[str]) -> list[Member]:
    """One member for each combination of the values of all `--set`; the last one varies fastest.

    Args:
        job: The job that all members share.
        texts: The `--set` options as they were given.

    Raises:
        UserError: A value is not valid for its field, a field is set twice, or there are more than
            `MAX_MEMBERS` combinations.
    """
    values = [parse_values(text) for text in texts]
    fields = [field for field, _ in values]
    for field in fields:
        if fields.count(field) > 1:
            raise UserError(f"--set {field}: is given twice; list all its values once")
    count = 1
    for _, items in values:
        count *= len(items)
    if count > MAX_MEMBERS:
        raise UserError(f"--set: {count} combinations, at most {MAX_MEMBERS}; leave some out")
    combinations = itertools.product(*(items for _, items in values))
    every = [dict(zip(fields, chosen, strict=True)) for chosen in combinations]
    return _members(job, every)


def _members(job: DreamBoothJob, every: Sequence[Settings]) -> list[Member]:
    """The members, once all of them are found valid."""
    members: list[Member] = []
    problems: dict[str, Settings] = {}
    for settings in every:
        try:
            members.append(Member(settings, _job(job, settings)))
        except InvalidJobError as error:
            for message in error.messages:
                problems.setdefault(message, settings)
    if problems:
        lines = "".join(
            f"\n  {message} (with {describe(settings)})" for message, settings in problems.items()
        )
        raise UserError(f"the job with --set is not valid:{lines}")
    return members


def _job(job: DreamBoothJob, settings: Settings) -> DreamBoothJob:
    """The job with these values in place of its own, validated again."""
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for field, value in settings.items():
        steps = [int(number) if number else name for name, number in _STEP.findall(field)]
        document["spec"] = _replaced(document["spec"], "spec", steps, value)
    metadata = document["metadata"]
    metadata["name"] = member_name(job.metadata.name, settings)
    metadata["labels"] = metadata.get("labels", {}) | {SWEEP_LABEL: job.metadata.name}
    annotation = json.dumps(settings, separators=(",", ":"))
    metadata["annotations"] = metadata.get("annotations", {}) | {SETTINGS_ANNOTATION: annotation}
    return parse(document)


def _replaced(node: Any, path: str, steps: Sequence[str | int], value: Any) -> Any:
    """A copy of a part of a job with one value replaced; mappings that lead to it are made.

    Raises:
        InvalidJobError: The path leads through a value without fields, or to an item that is
            missing.
    """
    if not steps:
        return value
    step, *others = steps
    if isinstance(step, int):
        if not isinstance(node, list) or step >= len(node):
            raise InvalidJobError(f"{path}[{step}]: there is no such item; add it to the job file")
        changed = _replaced(node[step], f"{path}[{step}]", others, value)
        return [*node[:step], changed, *node[step + 1 :]]
    node = {} if node is None else node
    if not isinstance(node, dict):
        raise InvalidJobError(f"{path}: has no field {step}; correct --set")
    return {**node, step: _replaced(node.get(step), f"{path}.{step}", others, value)}


def member_name(base: str, settings: Settings) -> str:
    """Name of the member that sets these values: the same in every sweep of the job.

    A DNS label of at most `MAX_NAME` characters: the job's name and the values, as far as there is
    room, and a digest of fields and values.
    """
    digest = hashlib.sha256(_canonical([base, settings]).encode()).hexdigest()[:DIGEST]
    values = _slug("-".join(show(settings[field]) for field in sorted(settings)))
    room = MAX_NAME - DIGEST - 2
    # A long name leaves room for the values, which tell members apart for people.
    values = values[: max(room // 2, room - len(base))].strip("-")
    return "-".join(filter(None, [_slug(base)[: room - len(values)].strip("-"), values, digest]))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def describe(settings: Settings) -> str:
    """Fields and values on one line, as after `--set`."""
    return " ".join(f"{field}={show(value)}" for field, value in settings.items())


def show(value: Any) -> str:
    """A value in few characters, for tables and names."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _canonical(value: Any) -> str:
    """Text that is the same for equal values, whatever the order of keys."""
    return json.dumps(value, sort_keys=True)
