"""Files that were damaged, or made to do harm, are valid jobs or refused in words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dreambooth_api import InvalidJobError, load
from dreambooth_operator.cli.validate import validate
from tests.crds.mutations import CORPUS, mutated

JOB = (Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text()
QUICK, SLOW = 500, 10_000
WHERE = re.compile(r"(line \d+, column \d+|the file|job|\w[^\s:]*|\S*\[.*\]\S*): .")
"""How a problem begins: with a place in the text, or with a field; odd keys are in brackets."""


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidJobError) as raised:
        load(text)
    return raised.value.messages


def laughs() -> str:
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join([*lines, "apiVersion: *a29", ""])


HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "a billion laughs": (laughs, "the aliases stand for more than 10000 values"),
    "a merge of billions": (
        lambda: laughs().replace("apiVersion: *a29", "spec: {<<: [*a29, *a29]}"),
        "the aliases stand for more than 10000 values",
    ),
    "what contains itself": (
        lambda: "spec: &a\n  x: *a\n", "an alias refers to a node that contains it",
    ),
    "deep lists": (lambda: f"spec: {'[' * 9000}\n", "nested more than 100 deep"),
    "deep mappings": (lambda: f"spec: {'{a: ' * 9000}\n", "nested more than 100 deep"),
    "deep blocks": (
        lambda: "".join(f"{' ' * n}a:\n" for n in range(700)), "nested more than 100 deep",
    ),
    "a number of 6000 digits": (
        lambda: JOB.replace("steps: 800", f"steps: {'9' * 6000}"),
        r"line \d+, column 12: not valid YAML: '9+\.\.\. is not a valid int",
    ),
    "a number of 4000 bytes": (
        lambda: JOB.replace("steps: 800", f"steps: 0x{'f' * 8000}"),
        r"line \d+, column 12: not valid YAML: '0xf+\.\.\. has more than 64 bits",
    ),
    "no digits": (lambda: "spec: 0b_\n", "'0b_' is not a valid int"),
    "a tag that lies": (lambda: "spec: !!int mug\n", "'mug' is not a valid int"),
    "a tag that runs code": (
        lambda: "spec: !!python/object/apply:os._exit [3]\n", "the tag .*os._exit' is not known",
    ),
    "a tag that JSON does not have": (lambda: "spec: !!timestamp 2026-99-99\n", "is not known"),
    "a mapping that is text": (lambda: "spec: !!map x\n", "expected a mapping node"),
    "half a character": (lambda: 'kind: "\\ud800"\n', "kind: must be valid"),
    "a terminal's escape": (lambda: '"\\e[2J": 1\nkind: x\n', r"^\[\\x1b\[2J\]: unknown field"),
    "a line break in a key": (lambda: '"a\\nspec: fine": 1\nkind: x\n', r"^\[a\\nspec: fine\]: "),
    "a key of 9000 letters": (lambda: f"? {'k' * 9000}\n: 1\n", r"^k{57}\.\.\.: unknown field"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_text_is_refused_at_once(case: str) -> None:
    make, words = HOSTILE[case]
    text, began = make(), time.process_time()
    found = problems(text)
    assert time.process_time() - began < 5
    assert any(re.search(words, problem) for problem in found), found
    assert all(problem.isprintable() and len(problem) < 1000 for problem in found)


def test_a_thousand_unknown_fields_do_not_hide_the_rest() -> None:
    began = time.process_time()
    found = problems("".join(f"field{n}: {n}\n" for n in range(10_000)))
    assert time.process_time() - began < 30
    assert found[0] == "apiVersion: required; add it"
    assert found[-1] == "job: 9954 more errors; correct these first"
    assert len(found) == 51


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    huge = tmp_path / "job.yaml"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidJobError, match="has more than 262144 bytes"):
        load(huge)


def test_every_file_that_is_not_mutated_is_read(tmp_path: Path) -> None:
    assert len(CORPUS) > 80
    for text in CORPUS:
        check(text.encode(), tmp_path)


@pytest.mark.parametrize("chunk", range(QUICK // 100))
def test_a_mutated_file_is_a_valid_job_or_names_a_field(chunk: int, tmp_path: Path) -> None:
    refused = sum(check(mutated(100 * chunk + seed), tmp_path) for seed in range(100))
    assert 20 < refused < 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_thousand_mutated_files(tmp_path: Path) -> None:
    refused = sum(check(mutated(seed), tmp_path) for seed in range(QUICK, QUICK + SLOW))
    assert 2000 < refused < SLOW


def check(data: bytes, folder: Path) -> bool:
    """Validate a file as `dreambooth validate` does; returns whether it was refused."""
    path = folder / "job.yaml"
    path.write_bytes(data)
    began = time.process_time()
    code = validate([path])
    assert time.process_time() - began < 10
    assert code in (0, 2)
    if code == 0:
        assert yaml.safe_load(data)["kind"] == "DreamBoothJob"
        return False
    with pytest.raises(InvalidJobError) as raised:
        load(path)
    for problem in raised.value.messages:
        assert WHERE.match(problem) or problem.startswith(f"{path}: "), problem
        assert problem.isprintable(), problem
    return True
