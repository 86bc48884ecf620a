"""The control plane of the tests starts, answers, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.control_plane import ROOT, control_plane
from tests.cluster.kubectl import Kubectl, eventually

HOLD = """
import sys, time
from pathlib import Path
from tests.cluster.control_plane import control_plane
with control_plane(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


def test_it_answers_kubectl(tmp_path: Path) -> None:
    with control_plane(tmp_path) as plane:
        kubectl = Kubectl(plane.kubeconfig, "default")
        assert eventually(lambda: kubectl.get("namespace", "default") is not None)
    assert not users_of(tmp_path)


def test_definition_that_has_no_conditions_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a real API server answers just after it has created one."""
    states = [
        None,
        {},
        {"status": {"conditions": None}},
        {"status": {"conditions": [{"type": "Established", "status": "False"}]}},
        {"status": {"conditions": [{"type": "Established", "status": "True"}]}},
    ]
    monkeypatch.setattr(Kubectl, "get", lambda *_: states.pop(0))
    Kubectl(Path("kubeconfig")).wait_established("dreamboothjobs.dreambooth.dev")
    assert not states


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    assert eventually(lambda: len(users_of(tmp_path)) >= 2, seconds=10), users_of(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not users_of(tmp_path), seconds=10), users_of(tmp_path)


def users_of(folder: Path) -> list[str]:
    """The commands of running processes that name the folder, but for its starter."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if HOLD not in words and any(str(folder) in word for word in words):
            commands.append(" ".join(words))
    return commands
