"""YAML as kubectl reads it, so that a job means the same on a laptop and on a cluster.

PyYAML takes `1e-4` for text, `1:30` for 90, a date for a date, and the last of two equal keys. For
kubectl they are a number, text, text and an error.

Text is not trusted: its nesting and expansion are bounded, and only JSON's types come out of it.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

from dreambooth_api.parsing.quote import quoted

# YAML 1.1, as kubectl's parser reads it: y and n are booleans, and numbers may hold underscores.
_BOOL = r"^([yY]|yes|Yes|YES|[nN]|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"
_INT = r"^[-+]?_*(0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|0|[1-9][0-9_]*)$"
_FLOAT = (
    r"^[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9][0-9_]*)?$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_PLAIN_VALUES = [
    ("null", r"^(~|null|Null|NULL|)$", "~nN\0"),
    ("bool", _BOOL, "tTfFyYnNoO"),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("merge", r"^<<$", "<"),
]
"""Tag, form and first characters of unquoted text that is not a string (\\0: the empty text)."""

_TAG = "tag:yaml.org,2002:"
_TYPES = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
# Far below Python's recursion limit, as PyYAML reads nested values by recursion.
MAX_DEPTH = 100
MAX_ALIASED = 10_000
"""Values that all aliases of a text may expand to: ten lines can expand to billions."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The meaning of unquoted text, by its first character, as PyYAML wants it."""
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first in _PLAIN_VALUES:
        for character in first:
            key = "" if character == "\0" else character
            resolvers.setdefault(key, []).append((_TAG + tag, re.compile(pattern)))
    return resolvers


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()
    bool_values = yaml.SafeLoader.bool_values | {"y": True, "n": False}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Both are counted while nodes are composed, before any value is built from them.
        self._depth = 0
        self._aliased = 0
        self._values: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it is nested too deeply or its aliases stand for too much.

        Raises:
            yaml.MarkedYAMLError: It is; with the line and column.
        """
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            # An alias shares its node instead of composing it again, so depth and size do not show
            # it.
            self._count_alias(node, event.start_mark)
        elif node is not None:
            self._values[id(node)] = 1 + sum(self._values[id(child)] for child in _children(node))
        return node

    def _count_alias(self, node: yaml.Node | None, mark: Any) -> None:
        if id(node) not in self._values:
            raise _error("an alias refers to a node that contains it", mark)
        self._aliased += self._values[id(node)]
        if self._aliased > MAX_ALIASED:
            raise _error(f"the aliases stand for more than {MAX_ALIASED} values", mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build the value of a node, of a type that JSON has.

        Raises:
            yaml.MarkedYAMLError: It has another type; with the line and column.
        """
        if node.tag not in _TYPES:
            raise _error(f"the tag {quoted(node.tag)} is not known", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:
            kind = node.tag.removeprefix(_TAG)
            raise _error(f"{quoted(node.value)} is not a valid {kind}", node.start_mark) from error
        # No field needs more, and Python refuses to print integers of thousands of digits.
        if isinstance(value, int) and value.bit_length() > 64:
            raise _error(f"{quoted(node.value)} has more than 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys are text, each of them given once.

        Raises:
            yaml.MarkedYAMLError: They are not; with the line and column.
        """
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        return super().construct_mapping(node, deep)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                raise _error("a key must be text", key.start_mark)
            if key.value in seen:
                raise _error(f"the key {quoted(key.value)} is given twice", key.start_mark)
            seen.add(key.value)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


# libyaml writes the same twenty times faster: the operator writes a job's YAML for every attempt.
class _Dumper(yaml.CSafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
        # The same value twice is written out twice: kubectl users rarely know anchors.
        return True


def documents(text: str) -> Iterator[Any]:
    """Read the documents of a YAML text.

    Raises:
        yaml.YAMLError: The text is not valid, with the line and column.
    """
    yield from yaml.load_all(text, _Loader)


def dump(value: Any) -> str:
    """Write block YAML, with keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
