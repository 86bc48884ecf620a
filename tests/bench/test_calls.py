"""Benches run for minutes and by hand, so their calls are checked without running them."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(FOLDER.parents[1]).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if path != Path(__file__)
)


@pytest.mark.parametrize("name", MODULES)
def test_every_keyword_is_one_that_the_function_takes(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    calls = [
        node
        for node in ast.walk(ast.parse(Path(module.__file__).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for call in calls:
        function = getattr(module, call.func.id, None)  # type: ignore[attr-defined]
        if not inspect.isfunction(function):
            continue
        taken = inspect.signature(function).parameters.values()
        if not any(each.kind is each.VAR_KEYWORD for each in taken):
            given = {keyword.arg for keyword in call.keywords if keyword.arg}
            assert given <= {each.name for each in taken}, f"line {call.lineno}"
