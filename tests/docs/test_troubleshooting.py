"""Every reason that a job can show stands on the page that explains them, and no other does."""

from __future__ import annotations

import ast
import re
from typing import get_args

import pytest

from dreambooth_api.contract.conditions import ConditionType, Reason
from dreambooth_api.contract.exit_codes import NOT_RETRYABLE, ExitCode
from dreambooth_api.contract.stages import Outcome, Phase, Stage
from dreambooth_operator.controller.kube.pod_snapshots import (
    CONFIG_FAILS,
    IMAGE_PULL_FAILS,
    NEVER_STARTS,
)
from tests.docs.pages import ROOT, page

EVENTS = ROOT / "operator/dreambooth_operator/controller/decide/state/events.py"
WORD = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
NO_REASONS = {
    *("Normal", "Warning"),  # types of events
    *("True", "False"),  # statuses of conditions
    "Attempt",  # the start of a message
}
"""Words of that module that only look like reasons."""


def event_reasons() -> set[str]:
    """Every string of the module of events that is one CamelCase word, and the ends of attempts."""
    constants = [
        node for node in ast.walk(ast.parse(EVENTS.read_text())) if isinstance(node, ast.Constant)
    ]
    words = {node.value for node in constants if isinstance(node.value, str)}
    found = {word for word in words if WORD.fullmatch(word)} - NO_REASONS
    return found | {f"Attempt{each}" for each in get_args(Outcome) if each != "Succeeded"}


def reasons() -> set[str]:
    """Reasons of conditions and events."""
    final = {"Failed", "Stalled", "Disrupted"}  # outcomes of an attempt that end the job
    waiting = NEVER_STARTS | IMAGE_PULL_FAILS | CONFIG_FAILS
    return {reason.value for reason in Reason} | waiting | event_reasons() | final


def test_the_code_has_event_reasons() -> None:
    assert event_reasons() >= {"PreflightFailed", "AttemptDisrupted", "Resumed", "Preempted"}


def test_every_reason_is_explained() -> None:
    documented = set(page("docs/troubleshooting.md").codes)
    assert reasons() - documented == set()


def test_every_reason_that_is_explained_exists() -> None:
    named = {code for code in page("docs/troubleshooting.md").codes if WORD.fullmatch(code)}
    others = {"FailedCreate"}  # the Job controller's
    assert named - reasons() - others == set()


@pytest.mark.parametrize("name", sorted(ConditionType))
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
    for stage in ("Captioning", "GeneratingPrior", "Preparing", "Evaluating", "Exporting"):
        assert stage in text
        assert stage in get_args(Stage)
