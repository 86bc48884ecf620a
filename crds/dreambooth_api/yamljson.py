"""YAML as kubectl reads it, so that a job means the same on a laptop and on a cluster.

PyYAML takes `1e-4` for text, `1:30` for 90, a date for a date, and the last of two equal keys. For
kubectl they are a number, text, text and an error.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

_BOOL = r"^(true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$"
_INT = r"^[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"
_FLOAT = (
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_PLAIN_VALUES = [
    ("null", r"^(~|null|Null|NULL|)$", "~nN\0"),
    ("bool", _BOOL, "tTfFyYnNoO"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"^<<$", "<"),
]


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The meaning of unquoted text, by its first character, as PyYAML wants it."""
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in _PLAIN_VALUES:
        for character in first:
            key = "" if character == "\0" else character
            found.setdefault(key, []).append((f"tag:yaml.org,2002:{tag}", re.compile(pattern)))
    return found


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self._refuse_odd_keys(node)
        return super().construct_mapping(node, deep)

    def _refuse_odd_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem="a key must be text", problem_mark=key.start_mark
                )
            if key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)


# libyaml writes the same twenty times faster: the operator writes a job's YAML for every attempt.
class _Dumper(yaml.CSafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        return True


def documents(text: str) -> Iterator[Any]:
    """The documents of a YAML text; raises `yaml.YAMLError` with the line and column."""
    yield from yaml.load_all(text, _Loader)


def dump(value: Any) -> str:
    """Block YAML, in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
