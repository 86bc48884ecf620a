"""Every reason that a job can show stands on the page that explains them, and no other does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import get_args

import pytest

from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.stages import Phase, Stage
from dreambooth_operator.controller.decide import conditions, failures
from dreambooth_operator.controller.kube.snapshots import (
    CONFIG_FAILS,
    IMAGE_PULL_FAILS,
    NEVER_STARTS,
)
from tests.docs.pages import ROOT, page

CONTROLLER = ROOT / "operator" / "dreambooth_operator" / "controller"
DECIDE = (
    *("decide/attempt", "decide/preflight", "decide/decide", "decide/events"),
    *("decide/pod_start", "reconciler/codec", "reconciler/worker"),
)
"""Modules that give reasons to conditions and events."""
WORD = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
TYPES = {getattr(conditions, name) for name in vars(conditions) if name.isupper()}
CONDITIONS = {value for value in TYPES if isinstance(value, str)}
OUTCOMES = set(get_args(failures.Outcome))
NO_REASONS = {
    *("Normal", "Warning"),  # types of events
    *("True", "False", "Unknown"),  # of a condition
    *("Service", "ConfigMap"),
    *("Pending", "Preflight", "Preparing", "Restarting"),  # phases and a stage
    *("ContainerCreating", "PodInitializing"),  # all is well
    "Attempt",  # AttemptFailed and so on
}
"""Words of these modules that only look like reasons."""


def words(module: str) -> Iterator[str]:
    """Every string of a module that is one CamelCase word."""
    tree = ast.parse((CONTROLLER / f"{module}.py").read_text())
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and WORD.fullmatch(value):
            yield value


def reasons() -> set[str]:
    """Reasons of conditions and events, from the code."""
    found = {word for module in DECIDE for word in words(module)} - NO_REASONS
    found |= NEVER_STARTS | IMAGE_PULL_FAILS | CONFIG_FAILS
    ends = {f"Attempt{outcome}" for outcome in OUTCOMES - {"Succeeded"}}
    return found - {"Disrupted"} | ends | {"Stalled"}  # a job that stalls too often has failed


def test_the_code_has_reasons() -> None:
    assert reasons() >= {"NameTaken", "Refused", "NoAnswer", "ErrImagePull", "AttemptDisrupted"}


def test_every_reason_is_explained() -> None:
    documented = set(page("docs/troubleshooting.md").codes)
    assert reasons() - documented == set()


def test_every_reason_that_is_explained_exists() -> None:
    named = {code for code in page("docs/troubleshooting.md").codes if WORD.fullmatch(code)}
    others = {"FailedCreate"}  # the Job controller's
    assert named - reasons() - others == set()


@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_every_condition_is_explained(name: str) -> None:
    assert f"\n| {name} | " in page("docs/troubleshooting.md").text


def test_every_exit_code_is_explained() -> None:
    text = page("docs/troubleshooting.md").text
    for code in (*NOT_RETRYABLE, ExitCode.STALLED, ExitCode.STOPPED, 1, 137):
        assert f"\n| {code} | " in text


@pytest.mark.parametrize("phase", get_args(Phase))
def test_every_phase_is_explained(phase: str) -> None:
    rows = re.findall(r"^\| ([A-Z][\w, ]+) \|", page("docs/job.md").text, re.MULTILINE)
    assert phase in {name for row in rows for name in row.split(", ")}


def test_stages_that_are_named_exist() -> None:
    text = page("docs/troubleshooting.md").text
    for stage in ("GeneratingPrior", "Preparing", "Evaluating", "Exporting"):
        assert stage in text
        assert stage in get_args(Stage)
