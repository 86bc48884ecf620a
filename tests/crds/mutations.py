"""Job files as accidents and attackers leave them: one file for each seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[Any, ...]
JOBS = Path(__file__).parent / "jobs"
EXAMPLES = Path(__file__).parents[2] / "examples"
VALID = [
    path.read_text()
    for path in [*sorted((JOBS / "valid").glob("*.yaml")), *sorted(EXAMPLES.glob("*.yaml"))]
]
CORPUS = [path.read_text() for path in sorted((JOBS / "invalid").glob("*.yaml"))] + VALID
DEEPEST = 8
"""Places are changed down to here: a job that contains itself has no end."""
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**25, 0.5, -0.0, 1e-320, 1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "\n", "\t", "\0", "\x1b[31m", "null", "~",
    "true", "1", "1e3", "0x1F", "s3://", "s3:///", "s3://b/../..", "file://", "file:///", "hf://a",
    "https://u:p@h/", "{{ x }}", "{class}" * 50, "${HOME}", "../..", "/", "%s%n", "é", "\u202e",
    "\ufeff", "\U0001f4a9" * 40, "a\u0301", "x" * 5000, "10Gi", "1e400", [], {}, [[]], [None],
    {"": ""}, {"a": {"b": ["c"]}}, [1] * 300, b"\x00\xff", ["s3://b"] * 20, {"name": "x"},
]  # fmt: skip
TOKENS = [
    "\t", "  ", ": ", "- ", "? ", "&a ", "*a", "<<: *a", "!!int ", "!!float ", "!!set ", "!x ", "|",
    ">", "'", '"', "{", "}", "[", "]", ",", "#", "%", "@", "`", "---\n", "...\n", "\r", "\x85",
    "\u2028", "\ufeff", "\0", "\x07", "9" * 5000, "0b", "1:30", ".nan", "-.inf", "1_000", "\\ud800",
    '"\\x', "a: &a [*a]\n", "\n\n", "spec:\n", "kind: Job\n",
]  # fmt: skip


def mutated(seed: int) -> bytes:
    """A file of the corpus with a few changes of its values, then of its text."""
    draw = random.Random(seed)
    text = draw.choice(CORPUS if draw.random() < 0.3 else VALID)
    if draw.random() < 0.7:
        text = _changed_values(draw, text)
    if draw.random() < 0.5:
        for _ in range(draw.randint(1, 3)):
            text = draw.choice(TEXT_CHANGES)(draw, text)
    data = text.encode(errors="surrogatepass")
    return _damaged(draw, data) if draw.random() < 0.1 else data


def _changed_values(draw: random.Random, text: str) -> str:
    try:
        job = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        return text
    for _ in range(draw.randint(1, 3)):
        paths = list(_paths(job))
        if paths:
            draw.choice(VALUE_CHANGES)(draw, job, draw.choice(paths))
    return yaml.dump(job, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)


def _paths(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        if len(path) < DEEPEST:
            yield from _paths(item, (*path, key))


def _holder(job: Any, path: Path_) -> Any:
    for key in path[:-1]:
        job = job[key]
    return job


def _replace(draw: random.Random, job: Any, path: Path_) -> None:
    _holder(job, path)[path[-1]] = deepcopy(draw.choice(VALUES))


def _remove(draw: random.Random, job: Any, path: Path_) -> None:
    del _holder(job, path)[path[-1]]


def _rename(draw: random.Random, job: Any, path: Path_) -> None:
    holder = _holder(job, path)
    if isinstance(holder, dict):
        key = str(path[-1])
        names = [key.upper(), key + "s", key[:-1], f" {key}", "", "x" * 300, "a\nb", f"{key}é"]
        holder[draw.choice(names)] = holder.pop(path[-1])


def _wrap(draw: random.Random, job: Any, path: Path_) -> None:
    holder = _holder(job, path)
    value = holder[path[-1]]
    holder[path[-1]] = draw.choice([[value], {"value": value}, [value] * 40, str(value)])


def _swap(draw: random.Random, job: Any, path: Path_) -> None:
    other = draw.choice(list(_paths(job)))
    if path[: len(other)] != other and other[: len(path)] != path:
        here, there = _holder(job, path), _holder(job, other)
        here[path[-1]], there[other[-1]] = there[other[-1]], here[path[-1]]


def _alias(draw: random.Random, job: Any, path: Path_) -> None:
    """The same object in two places: it is written with an anchor and an alias."""
    other = draw.choice(list(_paths(job)))
    _holder(job, path)[path[-1]] = _holder(job, other)[other[-1]]


def _insert(draw: random.Random, text: str) -> str:
    place = draw.randint(0, len(text))
    return text[:place] + draw.choice(TOKENS) + text[place:]


def _delete(draw: random.Random, text: str) -> str:
    place = draw.randint(0, len(text))
    return text[:place] + text[place + draw.randint(1, 20) :]


def _lines_in_disorder(draw: random.Random, text: str) -> str:
    lines = text.split("\n")
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def _line_twice(draw: random.Random, text: str) -> str:
    lines = text.split("\n")
    line = draw.randrange(len(lines))
    return "\n".join([*lines[:line], lines[line], *lines[line:]])


def _indent(draw: random.Random, text: str) -> str:
    lines = text.split("\n")
    line = draw.randrange(len(lines))
    lines[line] = draw.choice([" ", "  ", "\t", "\u00a0"]) + lines[line]
    return "\n".join(lines)


def _cut(draw: random.Random, text: str) -> str:
    return text[: draw.randint(0, len(text))]


def _damaged(draw: random.Random, data: bytes) -> bytes:
    place = draw.randint(0, len(data))
    return data[:place] + draw.randbytes(draw.randint(1, 8)) + data[place:]


VALUE_CHANGES: list[Callable[[random.Random, Any, Path_], None]] = [
    _replace, _replace, _remove, _rename, _wrap, _swap, _alias,
]  # fmt: skip
TEXT_CHANGES: list[Callable[[random.Random, str], str]] = [
    _insert, _insert, _delete, _lines_in_disorder, _line_twice, _indent, _cut,
]  # fmt: skip
