"""Commands that pages name exist, with the options and arguments that are shown."""

from __future__ import annotations

import re
import shlex
import tomllib
from itertools import pairwise

import pytest
import typer.main

from dreambooth_api.parsing.load import parse
from dreambooth_operator.cli.main import app
from dreambooth_operator.cli.sweep.members import expand
from tests.docs.pages import BLOCKS, PAGES, ROOT, Page
from tests.docs.test_examples import JOB

SHELL = ("sh", "console")
LINES = [
    line.removeprefix("$ ")
    for block in BLOCKS
    if block.language in SHELL
    for line in block.text.replace("\\\n", " ").splitlines()
    if block.language == "sh" or line.startswith("$ ")
]
PROGRAM = typer.main.get_command(app)
COMMANDS = PROGRAM.commands  # type: ignore[attr-defined]
CALL = re.compile(r"(?:\.venv/bin/)?(dreambooth|dreambooth-operator) ")


def targets() -> set[str]:
    """Targets of the Makefile that its help lists."""
    return set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_target_of_make_exists(page: Page) -> None:
    named = {code.split()[1] for code in page.codes if re.match(r"make [a-z]", code)}
    assert named - targets() == set()


def test_every_target_of_make_in_a_block_exists() -> None:
    found = [re.search(r"(?:^|\s)make ([a-z][a-z-]*)", line) for line in LINES]
    named = {match[1] for match in found if match}
    assert named
    assert named - targets() == set()


def test_every_call_of_dreambooth_is_understood() -> None:
    calls = [re.split(r"[#|]", line)[0] for line in LINES if CALL.match(line)]
    seen = set()
    for call in calls:
        program, name, *arguments = shlex.split(call.strip().removeprefix(".venv/bin/"))
        if program == "dreambooth-operator":
            assert (name, len(arguments)) == ("--settings", 1)
            continue
        assert name in COMMANDS, call
        COMMANDS[name].make_context(name, arguments, resilient_parsing=False)
        seen.add(name)
    assert seen >= {"validate", "run", "samples", "render", "sweep"}


def test_values_of_sweeps_are_valid() -> None:
    calls = [shlex.split(line.partition("|")[0]) for line in LINES if " sweep -f " in line]
    assert len(calls) >= 2
    for call in calls:
        values = [value for option, value in pairwise(call) if option == "--set"]
        assert len(expand(parse(JOB), values)) >= 2


def test_every_named_command_of_dreambooth_exists() -> None:
    codes = [code.split() for page in PAGES for code in page.codes]
    named = {words[1] for words in codes if len(words) > 1 and words[0] == "dreambooth"}
    options = {option for parameter in PROGRAM.params for option in parameter.opts}
    assert named - COMMANDS.keys() - options - {"|"} == set()


def test_options_of_run_are_all_explained() -> None:
    text = (ROOT / "docs" / "local.md").read_text()
    for parameter in COMMANDS["run"].params:
        option = max(parameter.opts, key=len)
        documented = option in ("--file", "--help") or f"`{option}" in text
        assert documented or parameter.param_type_name == "argument"


def test_programs_are_installed_by_the_operators_package() -> None:
    package = tomllib.loads((ROOT / "operator" / "pyproject.toml").read_text())
    named = {match[1] for line in LINES if (match := CALL.match(line))}
    assert named == {"dreambooth", "dreambooth-operator"}
    assert named <= package["project"]["scripts"].keys()


def test_files_of_the_repository_in_commands_exist() -> None:
    words = [word for line in LINES for word in line.partition("#")[0].split()]
    folders = ("charts/", "crds/", "examples/", "tests/", "docs/")
    named = {word.split("=")[0] for word in words if word.startswith(folders)}
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
