"""Errors of a job that others hide: rules between fields are checked once all fields are valid.

What is wrong is replaced by something valid, and the job is checked again. A rule counts only if it
reads nothing that was replaced.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from dreambooth_api.models.job import DreamBoothJob
from dreambooth_api.parsing.messages import rule_message
from dreambooth_api.schema.rules import BrokenRulesError, Rule

ROUNDS = 4
"""A job is a few levels deep, and a part may be wrong without the field at fault."""
READ_BY_RULE = re.compile(r"\bself((?:\.\w+(?![\w(]))*)")
"""A field in a rule's CEL expression; what a bracket follows is a function."""
VALID = {
    "apiVersion": "dreambooth.dev/v1alpha1",
    "kind": "DreamBoothJob",
    "metadata": {"name": "job"},
    "spec": {
        "model": {"source": "s3://bucket/model"},
        "subjects": [{"identifier": "sks", "classNoun": "dog", "images": "s3://bucket/images"}],
        "output": "s3://bucket/output",
    },
}
"""What takes the place of fields that a job cannot be without."""

Path = tuple[str, ...]


def hidden_errors(data: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """A message for each broken rule that `error`, raised for this job, does not mention."""
    job: Any = data
    replaced: set[Path] = set()
    for _ in range(ROUNDS):
        for path in list(_wrong(error)):
            while path in replaced:
                path = path[:-1]
            if not path:
                return
            replaced.add(path)
            job = _replace(job, path, _at(VALID, path))
        try:
            DreamBoothJob.model_validate(job, by_alias=True, by_name=False)
        except ValidationError as found:
            error = found
        else:
            return
        for location, rule in _broken_rules(error):
            if not any(
                _overlap(read, path) for read in _reads(location, rule) for path in replaced
            ):
                yield rule_message(location, rule)


def _replace(value: Any, path: Path, new: Any) -> Any:
    """A copy of nested mappings with another value at a path; None removes it."""
    if not isinstance(value, dict):
        return value
    name, *rest = path
    changed = dict(value)
    if rest:
        changed[name] = _replace(value.get(name), tuple(rest), new)
    elif new is None:
        changed.pop(name, None)
    else:
        changed[name] = new
    return changed


def _at(value: Any, path: Path) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _wrong(error: ValidationError) -> Iterator[Path]:
    """The fields at fault; for an item of a list, the list."""
    for detail in error.errors():
        path = _without_items(detail["loc"])
        broken = detail.get("ctx", {}).get("error")
        if isinstance(broken, BrokenRulesError):
            yield from ((*path, *rule.field.split(".")) for rule in broken.rules)
        else:
            yield path


def _broken_rules(error: ValidationError) -> Iterator[tuple[tuple[int | str, ...], Rule]]:
    for detail in error.errors():
        broken = detail.get("ctx", {}).get("error")
        if isinstance(broken, BrokenRulesError):
            yield from ((detail["loc"], rule) for rule in broken.rules)


def _without_items(location: tuple[int | str, ...]) -> Path:
    path: list[str] = []
    for part in location:
        if isinstance(part, int):
            break
        path.append(part)
    return tuple(path)


def _reads(location: tuple[int | str, ...], rule: Rule) -> Iterator[Path]:
    for match in READ_BY_RULE.finditer(rule.cel):
        yield (*_without_items(location), *match[1].split(".")[1:])


def _overlap(one: Path, other: Path) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]
