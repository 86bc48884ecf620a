"""The checks of a job by its first pod, before its ranks start."""

import os
import subprocess
import sys
import time

import pytest

from dreambooth_api.contract.termination import Termination
from dreambooth_trainer.launcher.launch import Limits, check_job
from dreambooth_trainer.process.signals import StopSignal

JOB = """
apiVersion: dreambooth.dev/v1alpha1
kind: DreamBoothJob
metadata: {{name: mug}}
spec:
  model: {{source: file://{folder}/model}}
  subjects: [{{identifier: sks, classNoun: mug, images: file://{folder}/images}}]
  output: file://{folder}/results
  runtime: {{gpusPerNode: 0, preflight: {{runIn: FirstPod}}}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(folder=tmp_path))
    return path


@pytest.fixture
def message(tmp_path, monkeypatch):
    """Reads the pod's termination message."""
    path = tmp_path / "termination.log"
    monkeypatch.setenv("DREAMBOOTH_TERMINATION_LOG", str(path))
    return lambda: Termination.decode(path.read_text()).message if path.exists() else ""


@pytest.fixture
def preflight_that(tmp_path, monkeypatch):
    """Puts a script in the place of the preflight."""

    def replace(body):
        script = tmp_path / "preflight"
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return replace


def launch(config, **variables):
    command = [sys.executable, "-m", "dreambooth_trainer.launcher", "--config", str(config)]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )


def test_a_job_that_cannot_be_trained_ends_before_its_ranks_start(config, message):
    ended = launch(config, DREAMBOOTH_PREFLIGHT="1", PET_NNODES="2", PET_NODE_RANK="0")
    assert ended.returncode in range(64, 70), ended.stderr
    assert "the job cannot be trained" in message()
    assert "spec.subjects[0].images" in message()
    assert "spec.model.source" in message(), "all problems, and not the first alone"


@pytest.mark.parametrize(
    "variables", [{}, {"DREAMBOOTH_PREFLIGHT": "1", "PET_NODE_RANK": "1", "PET_NNODES": "2"}]
)
def test_only_the_first_pod_checks_and_only_if_it_is_to(variables, monkeypatch, config):
    from dreambooth_trainer.launcher import launch as module

    def never(*_args):
        raise AssertionError

    monkeypatch.setattr(module, "check_job", never)
    monkeypatch.setattr(sys, "argv", ["launcher", "--config", str(config)])
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setattr(StopSignal, "install", lambda _: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert module.main() == 0


def test_the_report_of_a_job_that_can_be_trained_is_no_last_word(config, message, preflight_that):
    preflight_that("""echo '{"message": "1 warning"}' > "$DREAMBOOTH_TERMINATION_LOG" """)
    assert check_job(config, Limits(0, 10), StopSignal()) == 0
    assert message() == ""


def test_a_pod_that_is_asked_to_stop_stops_the_checks(config, preflight_that):
    preflight_that("exec sleep 60")
    stop = StopSignal()
    stop.requested = True
    started = time.monotonic()
    assert check_job(config, Limits(0, 50), stop) == 143
    assert time.monotonic() - started < 40
